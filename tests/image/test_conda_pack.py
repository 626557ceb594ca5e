"""vine-env pack of what conda-pack and venv-pack make: at a place that is chosen then,
or that the archive tells."""

import asyncio
import json
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import conda_pack
import pytest
import venv_pack
from conda_packages import PLACEHOLDER, packages, write_channel
from conftest import mounted, run_cli
from rattler import Channel, RepoData, install


@pytest.fixture(scope="session")
def conda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conda prefix, as conda would have made it."""
    folder = tmp_path_factory.mktemp("conda")
    write_channel(folder, packages())
    channel = folder / "channel"
    records = []
    for listing in channel.glob("*/repodata.json"):
        records += RepoData.from_path(listing).into_repo_data(Channel(channel.as_uri()))
    asyncio.run(
        install(records, folder / "env", cache_dir=folder / "c", show_progress=False)
    )
    return folder / "env"


def conda_archive(conda: Path, archive: Path, **how: str) -> Path:
    conda_pack.pack(prefix=str(conda), output=str(archive), **how)
    return archive


def unpacked(archive: Path, place: Path) -> dict[str, bytes]:
    """As people do it: unpack it, and run the script."""
    place.mkdir()
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as file:
            file.extractall(place)
    else:
        with tarfile.open(archive) as tar:
            tar.extractall(place)
    script = place / "bin/conda-unpack"
    subprocess.run([sys.executable, "-B", str(script)], check=True)
    return content(place)


def content(root: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()
    }


@pytest.mark.parametrize("ending", [".tar.gz", ".zip"])
def test_it_is_as_if_conda_unpack_had_run_there(
    program: str, cli: str, space: Path, conda: Path, ending: str
) -> None:
    archive, place = conda_archive(conda, space / f"env{ending}"), space / "place"
    wanted = unpacked(archive, place)
    shutil.rmtree(place)  # nothing is looked up there
    words = ["pack", "--local", archive, "-o", space / "x.sqsh", "--prefix", place]
    result = run_cli(cli, *words)
    assert (result.returncode, result.stderr) == (0, "")
    seen = json.loads(run_cli(cli, "inspect", space / "x.sqsh", "--json").stdout)
    assert (seen["prefix"], seen["env"]) == (str(place), "conda-pack")
    with mounted(space / "x.sqsh", space / "mnt") as env:
        assert content(env) == wanted
        config = (env / "bin/greet-config").read_text()
        assert config == f"#!{place}/bin/python\nprefix={place}"
        assert (
            f"{place}/share/greet\0".encode() in (env / "lib/libgreet.so").read_bytes()
        )
        assert (seen["files"], seen["bytes"]) == (
            len(wanted),
            sum(map(len, wanted.values())),
        )


def test_without_a_prefix_files_come_as_they_are(
    program: str, cli: str, space: Path, conda: Path
) -> None:
    archive = conda_archive(conda, space / "env.tar.gz")
    result = run_cli(cli, "pack", "--local", archive, "-o", space / "x.sqsh")
    assert result.returncode == 0
    assert "say with --prefix where it is to appear" in result.stderr
    with mounted(space / "x.sqsh", space / "mnt") as env:
        assert PLACEHOLDER.encode() in (env / "lib/libgreet.so").read_bytes()


def test_prefixes_that_do_not_fit(cli: str, space: Path, conda: Path) -> None:
    archive = conda_archive(conda, space / "env.tar.gz")
    (space / "out").mkdir()
    words = ["pack", "--local", archive, "-o", space / "out/x.sqsh", "--prefix"]
    result = run_cli(cli, *words, "/long" * 60)
    assert result.returncode == 1
    assert "'lib/libgreet.so': the prefix has 300 bytes" in result.stderr
    assert "give a shorter one" in result.stderr
    assert list((space / "out").iterdir()) == []


def test_a_script_that_is_not_conda_packs(cli: str, space: Path) -> None:
    (space / "env/bin").mkdir(parents=True)
    (space / "env/bin/conda-unpack").write_text("_prefix_records = read()\n")
    with tarfile.open(space / "env.tar", "w") as tar:
        tar.add(space / "env", ".")
    words = ["pack", "--local", space / "env.tar", "-o", space / "x.sqsh"]
    result = run_cli(cli, *words, "--prefix", "/x")
    assert result.returncode == 1
    assert "'bin/conda-unpack': its bin/conda-unpack has no list" in result.stderr
    # A file with a prefix that is another's second name.
    (space / "env/bin/conda-unpack").write_text(
        "\n_prefix_records = [\n('b', '/p', 'text')\n]\n"
    )
    (space / "env/a").write_text("/p")
    (space / "env/b").hardlink_to(space / "env/a")
    with tarfile.open(space / "env.tar", "w") as tar:
        tar.add(space / "env", ".")
    result = run_cli(cli, *words, "--prefix", "/x")
    assert result.returncode == 1
    assert "it has a prefix, and is a hard link to a file without" in result.stderr


def test_one_that_is_cut_short(cli: str, space: Path, conda: Path) -> None:
    whole = conda_archive(conda, space / "whole.tar.gz").read_bytes()
    (space / "env.tar.gz").write_bytes(whole[: len(whole) // 2])
    words = ["pack", "--local", space / "env.tar.gz", "-o", space / "x.sqsh"]
    result = run_cli(cli, *words, "--prefix", "/x", "--json")
    assert result.returncode == 1
    assert json.loads(result.stdout)["error"]["code"] == "ecorrupt"


# --- without --prefix: what the archive tells -----------------------------------------


def place_of(cli: str, source: Path, image: Path) -> tuple[str, str]:
    result = run_cli(cli, "pack", "--local", source, "-o", image, "--force")
    assert result.returncode == 0, result.stderr
    seen = json.loads(run_cli(cli, "inspect", image, "--json").stdout)
    return seen["env"], seen["prefix"]


def tar_of(env: Path, archive: Path) -> Path:
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(env, ".")
    return archive


def test_conda_archives_tell_their_place(cli: str, space: Path, conda: Path) -> None:
    image, place = space / "x.sqsh", "/shared/envs/greet"
    made_for = conda_archive(conda, space / "dest.tar.gz", dest_prefix=place)
    assert place_of(cli, made_for, image) == ("conda", place)
    plain = tar_of(conda, space / "plain.tar.gz")
    assert place_of(cli, plain, image) == ("conda", str(conda))
    # One that is for any place has none of its own.
    anywhere = conda_archive(conda, space / "env.tar.gz")
    assert place_of(cli, anywhere, image) == ("conda-pack", "")


def test_venv_archives_tell_their_place(cli: str, space: Path) -> None:
    env, image = space / "envs" / "v", space / "x.sqsh"
    venv.create(env, with_pip=True, symlinks=True)
    plain = tar_of(env, space / "plain.tar.gz")
    assert place_of(cli, plain, image) == ("venv", str(env))
    venv_pack.pack(prefix=str(env), output=str(space / "venv.tar.gz"))
    assert place_of(cli, space / "venv.tar.gz", image) == ("venv", "")
    words = ["pack", "--local", space / "venv.tar.gz", "-o", image, "--force"]
    assert run_cli(cli, *words, "--prefix", "/shared/v").returncode == 0
    seen = json.loads(run_cli(cli, "inspect", image, "--json").stdout)
    assert (seen["env"], seen["prefix"]) == ("venv", "/shared/v")
    # Scripts of two places: none of them is sure.
    (env / "bin" / "other").write_text("#!/shared/other/bin/python3\n")
    mixed = tar_of(env, space / "mixed.tar.gz")
    assert place_of(cli, mixed, image) == ("venv", "")
