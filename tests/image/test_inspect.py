"""vine-env inspect: what an image says of itself, and its packages."""

import json
import subprocess
import tarfile
import venv
from pathlib import Path
from typing import Any

import pytest
from conftest import run_cli
from envs import SITE, file_bytes, make_conda


def inspect(cli: str, image: Path) -> dict[str, Any]:
    result = run_cli(cli, "inspect", image, "--json")
    assert result.returncode == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def pack(cli: str, source: Path, image: Path) -> None:
    result = run_cli(cli, "pack", "--local", source, "-o", image)
    assert result.returncode == 0, result.stderr


def test_a_conda_prefix(cli: str, space: Path) -> None:
    env, image = space / "env", space / "env.sqsh"
    make_conda(env)
    pack(cli, env, image)
    files, total = file_bytes(env)
    seen = inspect(cli, image)
    assert (seen["prefix"], seen["env"], seen["activate"]) == (
        str(env),
        "conda",
        "conda",
    )
    assert (seen["files"], seen["bytes"]) == (files, total)
    assert seen["size"] == image.stat().st_size
    assert seen["packed"] and not seen["signed"] and len(seen["digest"]) == 64
    packages = {p["name"]: p for p in seen["packages"]}
    assert [p["name"] for p in seen["packages"][:3]] == ["mkl", "numpy", "python"]
    assert packages["mkl"] == {
        "name": "mkl",
        "version": "2024.0",
        "files": 1,
        "bytes": 799_998,
        "share": pytest.approx(799_998 / total),
    }
    assert packages["six"]["bytes"] == 30_000  # no list has it: by its name
    assert sum(p["bytes"] for p in seen["packages"]) == total
    text = run_cli(cli, "inspect", image).stdout
    assert f"prefix        {env}\n" in text
    assert "environment   conda\n" in text
    assert "the 5 largest of 5 packages:" in text
    assert [line.split()[:2] for line in text.splitlines() if "mkl" in line] == [
        ["mkl", "2024.0"]
    ]


def test_a_venv_and_what_is_none(cli: str, space: Path) -> None:
    env = space / "venv"
    venv.create(env, with_pip=True)
    pack(cli, env, space / "venv.sqsh")
    seen = inspect(cli, space / "venv.sqsh")
    assert (seen["env"], seen["activate"]) == ("venv", "venv")
    assert seen["files"] == sum(
        p.is_file() and not p.is_symlink() for p in env.rglob("*")
    )
    assert "pip" in [p["name"] for p in seen["packages"]]
    (space / "plain").mkdir()
    pack(cli, space / "plain", space / "plain.sqsh")
    seen = inspect(cli, space / "plain.sqsh")
    assert (seen["env"], seen["files"], seen["packages"]) == ("none", 0, [])


@pytest.mark.parametrize(
    ("extra", "kind"),
    [("", "conda"), ("bin/conda-unpack", "conda-pack"), ("conda-meta/pixi", "pixi")],
)
def test_archives_of_environments(cli: str, space: Path, extra: str, kind: str) -> None:
    env, archive = space / "env", space / "env.tar.gz"
    make_conda(env)
    if extra:
        (env / extra).write_text("#!/usr/bin/env python\n")
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(env, ".")
    pack(cli, archive, space / "env.sqsh")
    seen = inspect(cli, space / "env.sqsh")
    assert (seen["prefix"], seen["env"]) == ("", kind)
    assert (seen["files"], seen["bytes"]) == file_bytes(env)
    assert seen["packages"][0]["name"] == "mkl"
    assert (
        "none: it appears in /run/vine/env"
        in run_cli(cli, "inspect", space / "env.sqsh").stdout
    )


def test_hard_links_count_once_and_odd_names_are_escaped(cli: str, space: Path) -> None:
    env = space / "env"
    (env / SITE / "a\nb").mkdir(parents=True)
    (env / SITE / "a\nb" / "one").write_bytes(b"x" * 1000)
    (env / SITE / "a\nb" / "two").hardlink_to(env / SITE / "a\nb" / "one")
    pack(cli, env, space / "env.sqsh")
    seen = inspect(cli, space / "env.sqsh")
    assert (seen["files"], seen["bytes"]) == (1, 1000)
    assert [p["name"] for p in seen["packages"]] == ["a%0Ab"]
    assert "a%0Ab" in run_cli(cli, "inspect", space / "env.sqsh").stdout


def test_images_of_others(cli: str, space: Path) -> None:
    """A plain squashfs image, compressed in another way, says nothing of itself."""
    env = space / "env"
    make_conda(env)
    command = ["mksquashfs", env, space / "env.sqsh", "-comp", "gzip", "-no-progress"]
    subprocess.run(command, check=True, capture_output=True)
    seen = inspect(cli, space / "env.sqsh")
    assert (seen["packed"], seen["env"], seen["digest"]) == (False, "unknown", "")
    assert (seen["files"], seen["bytes"]) == file_bytes(env)
    assert "plain squashfs image" in run_cli(cli, "inspect", space / "env.sqsh").stdout


def test_what_cannot_be_inspected(cli: str, space: Path) -> None:
    make_conda(space / "env")
    pack(cli, space / "env", space / "env.sqsh")
    whole = (space / "env.sqsh").read_bytes()
    used = int.from_bytes(whole[40:48], "little")
    (space / "short.sqsh").write_bytes(whole[: used // 2])
    (space / "hurt.sqsh").write_bytes(
        whole[: used - 600] + b"\xff" * 600 + whole[used:]
    )
    (space / "text").write_text("no image")
    for name, why in {
        "none.sqsh": "No such file",
        "env": "is a directory: this takes an image file",
        "short.sqsh": "is cut short",
        "hurt.sqsh": "hurt.sqsh",
        "text": "is no squashfs image",
    }.items():
        result = run_cli(cli, "inspect", space / name)
        assert result.returncode == 1, name
        assert why in result.stderr and str(space / name) in result.stderr
        assert result.stdout == ""
    result = run_cli(cli, "inspect", space / "text", "--json")
    assert json.loads(result.stdout)["error"]["code"] == "ecorrupt"
