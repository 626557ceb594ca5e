"""What of a source goes into an image, and in which order."""

import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from conftest import mounted, run_cli
from envs import SITE, make_conda
from source import build


def names(root: Path) -> set[str]:
    return {str(p.relative_to(root)) for p in root.rglob("*")}


def pack(cli: str, source: Path, image: Path, *more: str | Path) -> str:
    result = run_cli(cli, "pack", "--local", source, "-o", image, *more)
    assert result.returncode == 0, result.stderr
    return result.stdout


def make_env(env: Path) -> None:
    make_conda(env)
    for name in (
        "numpy/tests/test_a.py",
        "tests/test_b.py",
        "doc/a.txt",
        "doc/b/c.txt",
    ):
        (env / SITE / name).parent.mkdir(parents=True, exist_ok=True)
        (env / SITE / name).write_text(name)
    (env / "share" / "doc").mkdir(parents=True)
    (env / "share" / "doc" / "tests").write_text("a file of that name")


GLOBS = ["tests/", f"/{SITE}/doc/**", "libmkl_*"]
GONE = {
    f"{SITE}/numpy/tests",
    f"{SITE}/numpy/tests/test_a.py",
    f"{SITE}/tests",
    f"{SITE}/tests/test_b.py",
    f"{SITE}/doc/a.txt",
    f"{SITE}/doc/b",
    f"{SITE}/doc/b/c.txt",
    "lib/libmkl_core.so.2",
}


@pytest.mark.parametrize("kind", ["directory", "archive"])
def test_what_is_excluded_is_not_there(
    program: str, cli: str, space: Path, kind: str
) -> None:
    source = env = space / "env"
    make_env(env)
    if kind == "archive":
        source = space / "env.tar"
        with tarfile.open(source, "w") as tar:
            tar.add(env, ".")
    options = [part for glob in GLOBS for part in ("--exclude", glob)]
    pack(cli, source, space / "env.sqsh", *options)
    with mounted(space / "env.sqsh", space / "mnt") as mnt:
        assert names(mnt) == names(env) - GONE


def test_what_is_excluded_need_not_be_readable(
    program: str, cli: str, space: Path
) -> None:
    env, out = space / "env", space / "out"
    (env / "secret").mkdir(parents=True, mode=0o700)
    (env / "mine").write_text("mine")
    out.mkdir(mode=0o777)
    out.chmod(0o777)
    command = [cli, "pack", "--local", str(env), "-o", str(out / "env.sqsh")]
    refused = subprocess.run(command, user=20077, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "secret" in refused.stderr
    command += ["--exclude", "/secret"]
    packed = subprocess.run(command, user=20077, capture_output=True, text=True)
    assert packed.returncode == 0, packed.stderr
    assert [p.name for p in out.iterdir()] == ["env.sqsh"]


def test_archives_that_are_not_ready_yet(program: str, cli: str, space: Path) -> None:
    """pixi-pack's have packages only; conda-pack's want a word."""
    env, out = space / "env", space / "out"
    out.mkdir()
    with tarfile.open(space / "pixi.tar", "w") as tar:
        for name in ("pixi-pack.json", "environment.yml", "channel/noarch/x-1-0.conda"):
            tar.addfile(tarfile.TarInfo(name))
    event = build(program, str(space / "pixi.tar"), str(out / "x"))
    assert (event["event"], event["code"]) == ("error", "einval")
    assert f"'{space}/pixi.tar' is an archive of pixi-pack" in event["text"]
    assert "'vine-env pack' makes an image of it" in event["text"]
    (out / "x").unlink(missing_ok=True)
    make_conda(env)
    (env / "bin" / "conda-unpack").write_text("#!/usr/bin/env python\n")
    with tarfile.open(space / "conda.tar", "w") as tar:
        tar.add(env, ".")
    words = ["pack", "--local", space / "conda.tar", "-o", out / "x.sqsh", "--force"]
    assert "say with --prefix where" in run_cli(cli, *words).stderr
    assert run_cli(cli, *words, "--quiet").stderr == ""
    words[2] = env
    assert run_cli(cli, *words).stderr == ""


def test_hard_links_keep_their_content(program: str, cli: str, space: Path) -> None:
    env = space / "env"
    (env / "a").mkdir(parents=True)
    (env / "a" / "first").write_text("content")
    (env / "second").hardlink_to(env / "a" / "first")
    pack(cli, env, space / "env.sqsh", "--exclude", "a")
    with mounted(space / "env.sqsh", space / "mnt") as mnt:
        assert (mnt / "second").read_text() == "content"
    with tarfile.open(space / "env.tar", "w") as tar:
        tar.add(env / "a", "a")
        tar.add(env / "second", "second")
    result = run_cli(
        cli,
        "pack",
        "--local",
        space / "env.tar",
        "-o",
        space / "x.sqsh",
        "--exclude",
        "a",
    )
    assert result.returncode == 1
    assert (
        "'second': it is a hard link to a file that is to be left out" in result.stderr
    )


def test_a_trace_says_what_comes_first(program: str, cli: str, space: Path) -> None:
    env, image, trace = space / "env", space / "env.sqsh", space / "t.trace"
    env.mkdir()
    content = {name: os.urandom(300_000) for name in "abcdefgh"}
    for name, data in content.items():
        (env / name).write_bytes(data)
    (env / "z link").symlink_to("a")
    (env / "h2").hardlink_to(env / "h")
    trace.write_text(
        "# vine-env trace 1\n# prefix /elsewhere\nf\nnot/there\nz%20link\nh2\nc\nf\n"
    )

    def order() -> str:
        packed = image.read_bytes()
        return "".join(sorted(content, key=lambda n: packed.index(content[n][:64])))

    pack(cli, env, image)
    assert order() == "abcdefgh"
    pack(cli, env, image, "--force", "--sort-by-trace", trace)
    assert order() == "fhcabdeg"
    with mounted(image, space / "mnt") as mnt:
        assert {p: (mnt / p).read_bytes() for p in content} == content
        assert (mnt / "h").stat().st_ino == (mnt / "h2").stat().st_ino
        assert names(mnt) == names(env)
    first = image.read_bytes()
    pack(cli, env, image, "--force", "--sort-by-trace", trace)
    assert image.read_bytes() == first


def test_wrong_shapes_are_told(program: str, cli: str, space: Path) -> None:
    env, out = space / "env", space / "out"
    make_conda(env)
    out.mkdir()
    with tarfile.open(space / "env.tar", "w") as tar:
        tar.add(env, ".")
    (space / "other.trace").write_text("# vine-env trace 1\n# prefix /other\nno/such\n")
    (space / "bad.trace").write_text("# vine-env trace 1\nbin/python\n/etc/passwd\n")
    (space / "good.trace").write_text("# vine-env trace 1\nbin/python3.11\n")
    cases: list[tuple[Path, list[str | Path], str]] = [
        (env, ["--exclude", "../x"], "cannot exclude '../x': it has '.' or '..'"),
        (env, ["--exclude", ""], "cannot exclude '': a part of it is empty"),
        (env, ["--exclude", "x"] * 65, "65 globs to exclude, limit 64"),
        (env, ["--sort-by-trace", space / "none"], "cannot open the trace"),
        (env, ["--sort-by-trace", env / "bin/python3.11"], "is no trace"),
        (env, ["--sort-by-trace", space], "it is no file"),
        (env, ["--sort-by-trace", space / "bad.trace"], "line 3: its name is absolute"),
        (env, ["--sort-by-trace", space / "other.trace"], "it was made of /other"),
        (
            space / "env.tar",
            ["--sort-by-trace", space / "good.trace"],
            "is an archive, whose files come as they are",
        ),
    ]
    for source, options, why in cases:
        result = run_cli(cli, "pack", "--local", source, "-o", out / "x.sqsh", *options)
        assert result.returncode == 1, options
        assert why in result.stderr
        assert list(out.iterdir()) == []
