"""vine-env pack of what pixi-pack makes: packages of which py-rattler makes the
environment."""

import base64
import hashlib
import io
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conda_packages import (
    PLACEHOLDER,
    PLATFORM,
    Package,
    packages,
    tar_pack,
    write_pack,
)
from conftest import mounted, run_cli

PYTHON_PATH = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
HEADER = b"#!/usr/bin/env bash\nexit 1 # the real one unpacks\n@@END_HEADER@@\n\n"


@pytest.fixture
def folder(space: Path) -> Path:
    """What is in an archive, before it is one."""
    write_pack(space / "pack", packages())
    return space / "pack"


@pytest.fixture
def out(space: Path) -> Path:
    (space / "out").mkdir()
    return space / "out"


def pack(cli: str, source: Path, image: Path, *more: str) -> dict[str, Any]:
    words = ["pack", "--local", source, "-o", image, "--json", *more]
    result = run_cli(cli, *words, env=PYTHON_PATH)
    assert result.returncode == 0, result.stderr
    done: dict[str, Any] = json.loads(result.stdout)
    seen = json.loads(run_cli(cli, "inspect", image, "--json").stdout)
    assert done["env"] == seen["env"]
    return {**done, **seen}


def check_env(env: Path, prefix: str) -> None:
    """The text and the binary placeholder, the entry point, links and modes."""
    config = (env / "bin/greet-config").read_text()
    assert config == f"#!{prefix}/bin/python\nprefix={prefix}"
    binary = (env / "lib/libgreet.so").read_bytes()
    assert binary.startswith(f"\x7fELF\0{prefix}/share/greet\0".encode())
    before = packages()["libgreet"].files["lib/libgreet.so"]
    assert (len(binary), binary[-5:]) == (len(before), before[-5:])
    script = (env / "bin/greet").read_text()
    assert script.startswith(f"#!{prefix}/bin/python3.11\n")
    assert os.access(env / "bin/greet", os.X_OK)
    site = env / "lib/python3.11/site-packages"
    assert "def main" in (site / "greet/__init__.py").read_text()
    assert (env / "share/greet/words").read_text() == "hello\n"
    meta = {p.name for p in (env / "conda-meta").iterdir()}
    assert {f"{p.stem}.json" for p in packages().values()} <= meta
    record = json.loads((env / "conda-meta/greet-0.3-0.json").read_text())
    assert record["url"] == "file:///channel/noarch/greet-0.3-0.conda"
    files = [p for p in env.rglob("*") if p.is_file()]
    for path in files:
        data = path.read_bytes()
        assert b".unpack-" not in data, path
        # conda-meta keeps what the package had.
        assert PLACEHOLDER.encode() not in data or path.parent.name == "conda-meta"
    assert all(p.stat().st_nlink == 1 for p in files)


def test_an_archive_becomes_an_environment(
    program: str, cli: str, space: Path, folder: Path, out: Path
) -> None:
    seen = pack(cli, tar_pack(folder, space / "env.tar"), out / "greet.sqsh")
    assert (seen["env"], seen["activate"]) == ("pixi", "conda")
    assert seen["prefix"] == "/run/vine/env/greet"
    assert {"python", "libgreet", "greet"} <= {p["name"] for p in seen["packages"]}
    with mounted(out / "greet.sqsh", space / "mnt") as env:
        check_env(env, "/run/vine/env/greet")
        files = [p for p in env.rglob("*") if p.is_file()]
        assert seen["files"] == len(files)
        assert seen["bytes"] == sum(p.stat().st_size for p in files)
        assert env.stat().st_mode & 0o777 == 0o755
    assert [p.name for p in out.iterdir()] == ["greet.sqsh"]


def make_wheel(folder: Path, instead: str = "") -> None:
    """`instead`: what it has for what its RECORD says."""
    folder.mkdir()
    files = {
        "wave/__init__.py": "def main():\n    print('wave')\n",
        "wave-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: wave\n"
        "Version: 1.0\n",
        "wave-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
        "wave-1.0.dist-info/entry_points.txt": "[console_scripts]\nwave = wave:main\n",
    }
    record = ""
    for name, text in files.items():
        sha = hashlib.sha256(text.encode()).digest()
        coded = base64.urlsafe_b64encode(sha).rstrip(b"=").decode()
        record += f"{name},sha256={coded},{len(text)}\n"
    record += "wave-1.0.dist-info/RECORD,,\n"
    with zipfile.ZipFile(folder / "wave-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in (*files.items(), ("wave-1.0.dist-info/RECORD", record)):
            changed = instead if name == "wave/__init__.py" else ""
            wheel.writestr(name, changed or text)


def test_a_script_with_wheels_at_a_prefix_of_ones_own(
    program: str, cli: str, space: Path, folder: Path, out: Path
) -> None:
    make_wheel(folder / "pypi")
    tar = tar_pack(folder, space / "env.tar").read_bytes()
    script = space / "environment.sh"
    script.write_bytes(
        HEADER + base64.b64encode(tar) + b"\n@@END_ARCHIVE@@\n" + b"QUJD" * 1000
    )
    seen = pack(cli, script, out / "greet.sqsh", "--prefix", "/shared//envs/greet/")
    assert (seen["env"], seen["prefix"]) == ("pixi", "/shared/envs/greet")
    with mounted(out / "greet.sqsh", space / "mnt") as env:
        check_env(env, "/shared/envs/greet")
        wave = (env / "bin/wave").read_text()
        assert wave.startswith("#!/shared/envs/greet/bin/python3.11\n")
        site = env / "lib/python3.11/site-packages"
        assert "wave" in (site / "wave/__init__.py").read_text()
        assert (site / "wave-1.0.dist-info/INSTALLER").read_text() == "vine-env\n"


def test_it_is_unpacked_where_tmpdir_says(
    cli: str, space: Path, folder: Path, out: Path
) -> None:
    words = ["pack", "--local", tar_pack(folder, space / "env.tar"), "-o"]
    gone = {**PYTHON_PATH, "TMPDIR": str(space / "none")}
    result = run_cli(cli, *words, out / "x.sqsh", env=gone)
    assert result.returncode == 1
    assert "cannot make a place to unpack it: [Errno 2]" in result.stderr
    assert f"{space}/none/vine-env-pack-" in result.stderr
    (space / "none").mkdir()
    assert run_cli(cli, *words, out / "x.sqsh", env=gone).returncode == 0
    assert list((space / "none").iterdir()) == []


# --- what is wrong with it ------------------------------------------------------------


def edit_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def wrong_hash(folder: Path) -> None:
    path = folder / "channel/noarch/greet-0.3-0.conda"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def no_hash(folder: Path) -> None:
    edit_json(
        folder / "channel/noarch/repodata.json",
        lambda d: d["packages.conda"]["greet-0.3-0.conda"].pop("sha256"),
    )


def no_package(folder: Path) -> None:
    (folder / "channel/noarch/greet-0.3-0.conda").unlink()


def bad_list(folder: Path) -> None:
    (folder / "channel/noarch/repodata.json").write_text("{")


def bad_name(folder: Path) -> None:
    edit_json(
        folder / "channel/noarch/repodata.json",
        lambda d: d["packages.conda"].update({"../../x.conda": {}}),
    )


def later_format(folder: Path) -> None:
    edit_json(folder / "pixi-pack.json", lambda d: d.update(version="2"))


def other_machine(folder: Path) -> None:
    edit_json(folder / "pixi-pack.json", lambda d: d.update(platform="osx-arm64"))


def bad_wheel(folder: Path) -> None:
    (folder / "pypi").mkdir()
    (folder / "pypi/wave-1.0-py3-none-any.whl").write_bytes(b"no zip")


def changed_wheel(folder: Path) -> None:
    make_wheel(folder / "pypi", "print('changed')\n")


def wheel_outside(folder: Path) -> None:
    make_wheel(folder / "pypi")
    with zipfile.ZipFile(folder / "pypi/wave-1.0-py3-none-any.whl", "a") as wheel:
        wheel.writestr("../../outside", "outside")


def sdist(folder: Path) -> None:
    (folder / "pypi").mkdir()
    (folder / "pypi/wave-1.0.tar.gz").write_bytes(b"")


def path_outside(folder: Path) -> None:
    made = packages()
    path = "site-packages/greet/__init__.py"
    made["greet"].paths[path] = "../../../outside"
    shutil.rmtree(folder / "channel")
    write_pack(folder, made)


def member_outside(folder: Path) -> None:
    made = packages()
    made["greet"].files["../../../outside"] = b"outside"
    made["greet"].paths["../../../outside"] = "share/outside"
    shutil.rmtree(folder / "channel")
    write_pack(folder, made)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (wrong_hash, "the SHA-256 of 'greet-0.3-0.conda' is"),
        (no_hash, "its repodata.json has no SHA-256 of 'greet-0.3-0.conda'"),
        (no_package, "it is damaged: 'greet-0.3-0.conda' is missing"),
        (bad_list, "it is damaged: no good channel/noarch/repodata.json"),
        (bad_name, "cannot use '../../x.conda' in its channel/noarch/repodata.json"),
        (later_format, "it is of version '2' of pixi-pack's format"),
        (other_machine, f"this is '{PLATFORM}': pack with 'pixi-pack --platform"),
        (bad_wheel, "cannot install its wheel 'wave-1.0-py3-none-any.whl': File is"),
        (changed_wheel, "cannot install its wheel 'wave-1.0-py3-none-any.whl': "),
        (wheel_outside, "cannot use its entry '../../outside': it leads outside"),
        (sdist, "its 'wave-1.0.tar.gz' is no wheel"),
        (path_outside, "'greet-0.3-0.conda' has the path '../../../outside'"),
        (member_outside, "cannot install its packages: failed to link greet"),
    ],
)
def test_what_is_wrong_is_told(
    cli: str,
    space: Path,
    folder: Path,
    out: Path,
    change: Callable[[Path], None],
    why: str,
) -> None:
    change(folder)
    archive = tar_pack(folder, space / "env.tar")
    words = ["pack", "--local", archive, "-o", out / "x.sqsh"]
    result = run_cli(cli, *words, env=PYTHON_PATH)
    assert result.returncode == 1
    assert f"cannot pack '{archive}': " in result.stderr
    assert why in result.stderr
    assert list(out.iterdir()) == []
    assert not list(space.rglob("outside"))


def add_member(archive: Path, member: tarfile.TarInfo) -> None:
    """In front of pixi-pack.json, which is the last."""
    with tarfile.open(archive) as tar:
        had = [
            (m, data.read() if (data := tar.extractfile(m)) is not None else b"")
            for m in tar
        ]
    with tarfile.open(archive, "w") as tar:
        for m, data in (*had[:-1], (member, b""), had[-1]):
            tar.addfile(m, io.BytesIO(data))


def test_entries_that_lead_outside(
    cli: str, space: Path, folder: Path, out: Path
) -> None:
    link, up, twice = (
        tarfile.TarInfo("channel/noarch/link"),
        tarfile.TarInfo("channel/../../outside"),
        tarfile.TarInfo("channel/noarch/repodata.json"),
    )
    link.type, link.linkname = tarfile.SYMTYPE, "/etc"
    for member, why in {
        link: "'channel/noarch/link': it is no file and no directory",
        up: "'channel/../../outside': it leads outside",
        twice: "it is damaged: [Errno 17] File exists",
    }.items():
        archive = tar_pack(folder, space / "env.tar")
        add_member(archive, member)
        words = ["pack", "--local", archive, "-o", out / "x.sqsh"]
        result = run_cli(cli, *words, env=PYTHON_PATH)
        assert result.returncode == 1
        assert why in result.stderr
        assert list(out.iterdir()) == []


def test_one_that_is_cut_short(cli: str, space: Path, folder: Path, out: Path) -> None:
    whole = tar_pack(folder, space / "env.tar").read_bytes()
    coded = HEADER + base64.b64encode(whole)
    cuts = {
        "a.tar": whole[: whole.index(b"pixi-pack.json") - 700],
        "b.sh": coded[:-1000],
        "c.sh": coded[:-1002] + b"\n@@END_ARCHIVE@@\n",
    }
    for name, data in cuts.items():
        (space / name).write_bytes(data)
        words = ["pack", "--local", space / name, "-o", out / "x.sqsh", "--json"]
        result = run_cli(cli, *words, env=PYTHON_PATH)
        assert result.returncode == 1
        assert json.loads(result.stdout)["error"]["code"] == "ecorrupt", name
        assert "damaged" in result.stderr
        assert list(out.iterdir()) == []


def test_without_rattler_it_says_what_to_install(
    cli: str, space: Path, folder: Path, out: Path
) -> None:
    (space / "bin").mkdir()
    words = ["pack", "--local", tar_pack(folder, space / "env.tar"), "-o"]
    result = run_cli(cli, *words, out / "x.sqsh", env={"PATH": str(space / "bin")})
    assert result.returncode == 1
    assert "cannot run 'python3', which unpacks archives of pixi-pack" in result.stderr
    (space / "bin/python3").write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    (space / "bin/python3").chmod(0o755)
    result = run_cli(cli, *words, out / "x.sqsh", env={"PATH": str(space / "bin")})
    assert result.returncode == 1
    assert "No module named 'rattler'" in result.stderr
    assert "python3 -m pip install 'py-rattler>=0.28' installer" in result.stderr
    assert list(out.iterdir()) == []


# --- when it is given up --------------------------------------------------------------

SLOW = """
import asyncio, pathlib
class Channel:
    def __init__(self, name): pass
class RepoData:
    @staticmethod
    def from_path(path): return RepoData()
    def into_repo_data(self, channel): return []
class PathsJson:
    paths = []
    @staticmethod
    def from_package_archive(path): return PathsJson()
async def install(records, target, **how):
    target.mkdir()
    (target / "begun").write_text("")
    await asyncio.sleep(600)
"""


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_given_up_nothing_stays(
    cli: str, space: Path, folder: Path, out: Path, number: signal.Signals
) -> None:
    (space / "slow" / "rattler").mkdir(parents=True)
    (space / "slow" / "rattler" / "__init__.py").write_text(SLOW)
    (space / "slow" / "rattler" / "install.py").write_text(
        "class InstallerReporter: pass\n"
    )
    archive = tar_pack(folder, space / "env.tar")
    process = subprocess.Popen(
        [cli, "pack", "--local", str(archive), "-o", str(out / "x.sqsh")],
        env={**os.environ, **PYTHON_PATH, "PYTHONPATH": str(space / "slow")},
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: list(out.glob("*/env/begun")), "it did not begin")
    process.send_signal(number)
    assert process.wait(60) == -number
    wait_for(lambda: not list(out.iterdir()), "the tree is still there")


# --- what is said meanwhile -----------------------------------------------------------

# Called as: python3 -B unpack_pixi.py ARCHIVE TREE PREFIX
SAYS = """#!/bin/sh
mkdir -p "$4/env/conda-meta" && touch "$4/env/conda-meta/pixi"
%s
read line # until vine-env is gone
rm -r "$4"
"""


def with_python(space: Path, script: str) -> dict[str, str]:
    (space / "bin").mkdir(exist_ok=True)
    (space / "bin/python3").write_text(SAYS % script)
    (space / "bin/python3").chmod(0o755)
    return {**os.environ, "PATH": f"{space}/bin:{os.environ['PATH']}"}


def read_all(terminal: int) -> str:
    """Until its other end is closed."""
    seen = b""
    while True:
        try:
            more = os.read(terminal, 4096)
        except OSError:
            more = b""
        if not more:
            return seen.decode()
        seen += more


def test_a_terminal_shows_how_far_it_is(
    cli: str, space: Path, folder: Path, out: Path
) -> None:
    archive, (terminal, other) = tar_pack(folder, space / "env.tar"), pty.openpty()
    says = "echo unpacking 5000000 10000000; echo installing 1 0; echo ready"
    process = subprocess.Popen(
        [cli, "pack", "--local", str(archive), "-o", str(out / "x.sqsh")],
        env=with_python(space, says),
        stdout=subprocess.DEVNULL,
        stderr=other,
    )
    os.close(other)
    seen = read_all(terminal)
    os.close(terminal)
    assert process.wait(60) == 0, seen
    assert f"{archive}: unpacking [##########..........]  50 %  5.0 MB of" in seen
    assert f"{archive}: installing" in seen
    assert [p.name for p in out.iterdir()] == ["x.sqsh"]


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo no such thing >&2; rm -r $4; exit 3", "no such thing"),
        ("echo ready to begin; rm -r $4; exit 0", "it did not say why"),
        ("kill -9 $$", "it did not say why"),
    ],
)
def test_a_python_that_fails(
    cli: str, space: Path, folder: Path, out: Path, script: str, why: str
) -> None:
    archive = tar_pack(folder, space / "env.tar")
    words = ["pack", "--local", archive, "-o", out / "x.sqsh"]
    result = run_cli(cli, *words, env=with_python(space, script))
    assert result.returncode == 1
    assert f"cannot unpack '{archive}' with python3 (3.10 or newer" in result.stderr
    assert why in result.stderr
    assert not (out / "x.sqsh").exists()


# --- a prefix for others --------------------------------------------------------------


def test_a_prefix_for_a_directory(cli: str, space: Path, out: Path) -> None:
    (space / "env").mkdir()
    words = ["pack", "--local", space / "env", "-o", out / "x.sqsh"]
    for prefix, why in {
        "relative": "it is not absolute",
        "/": "nothing can appear there",
        "/a/../b": "cannot be a prefix",
    }.items():
        result = run_cli(cli, *words, "--prefix", prefix)
        assert result.returncode == 1
        assert f"'{prefix}' cannot be a prefix: " in result.stderr
        assert why in result.stderr
    assert run_cli(cli, *words, "--prefix", "/shared/./x").returncode == 0
    seen = json.loads(run_cli(cli, "inspect", out / "x.sqsh", "--json").stdout)
    assert (seen["prefix"], seen["env"]) == ("/shared/x", "none")


def test_archives_of_other_kinds_are_none_of_pixi_pack(
    cli: str, space: Path, out: Path
) -> None:
    """Packages beside other things: here bin/ comes before them."""
    package = Package("x", "1", "noarch", {"share/x": b"x"})
    package.write(space / "env" / "channel", ".conda")
    (space / "env" / "bin").mkdir()
    archive = tar_pack(space / "env", space / "env.tar")
    no_python = {"PATH": str(out)}
    words = ["pack", "--local", archive, "-o", out / "x.sqsh"]
    result = run_cli(cli, *words, env=no_python)
    assert result.returncode == 0, result.stderr
