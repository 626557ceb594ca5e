"""The child is the user, cannot become root again, and cannot be traced."""

import os
import subprocess
from pathlib import Path

import pytest
from conftest import USER
from source import Source


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {k: v.strip() for k, _, v in (line.partition(":") for line in lines)}


def test_nothing_of_root_is_left(program: str, space: Path) -> None:
    (space / "tree").mkdir()
    with Source(program, str(space / "tree"), USER, USER + 5) as source:
        source.event()
        now = status(source.process.pid)
        assert now["Uid"].split() == [str(USER)] * 4
        assert now["Gid"].split() == [str(USER + 5)] * 4
        assert now["Groups"].split() == [str(USER + 5)]
        for capabilities in ("CapEff", "CapPrm", "CapAmb"):
            assert int(now[capabilities], 16) == 0
        assert now["NoNewPrivs"] == "1"
        # Not dumpable: what is in /proc belongs to root.
        assert os.stat(f"/proc/{source.process.pid}/environ").st_uid == 0


def test_the_user_cannot_trace_it(program: str, space: Path) -> None:
    (space / "tree").mkdir()
    with Source(program, str(space / "tree"), USER, USER) as source:
        source.event()
        look = subprocess.run(
            ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
            + ["head", "-c1", f"/proc/{source.process.pid}/mem"],
            capture_output=True,
        )
        assert b"denied" in look.stderr


def test_known_users_have_their_groups(program: str, space: Path) -> None:
    groups = subprocess.run(
        ["id", "-G", "nobody"], capture_output=True, text=True
    ).stdout.split()
    (space / "tree").mkdir()
    uid = int(subprocess.check_output(["id", "-u", "nobody"]))
    with Source(program, str(space / "tree"), uid, int(groups[0])) as source:
        source.event()
        assert set(status(source.process.pid)["Groups"].split()) == set(groups)


def test_an_ordinary_user_becomes_nobody_else(program: str, space: Path) -> None:
    (space / "tree").mkdir()
    os.chmod(space / "tree", 0o755)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from source import Source\n"
        "uid = int(sys.argv[4])\n"
        "with Source(sys.argv[2], sys.argv[3], uid, uid) as s: print(s.event())"
    )
    lib = space / "lib"
    lib.mkdir()
    copy = Path(__file__).parent.parent / "lib" / "source.py"
    (lib / "source.py").write_text(copy.read_text())
    binary = space / "vine-source"
    binary.write_bytes(Path(program).read_bytes())
    binary.chmod(0o755)
    for uid, word in ((0, "only root"), (USER, "resolved"), (USER + 1, "only root")):
        out = subprocess.run(
            ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
            + ["/usr/bin/python3", "-c", script, str(lib), str(binary)]
            + [str(space / "tree"), str(uid)],
            capture_output=True,
            text=True,
        )
        assert word in out.stdout, out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--uid", "1"],
        ["--uid", "-1", "--gid", "1", "--path", "/tmp"],
        ["--uid", "4294967295", "--gid", "1", "--path", "/tmp"],
        ["--uid", "1x", "--gid", "1", "--path", "/tmp"],
        ["--uid", "1", "--gid", "1", "--path", "tmp"],
        ["--uid", "1", "--gid", "1", "--path", "/tmp", "--threads", "0"],
        ["--uid", "1", "--gid", "1", "--path", "/tmp", "--threads", "65"],
        ["--uid", "1", "--gid", "1", "--path", "/tmp", "--caching", "maybe"],
        ["--uid", "1", "--gid", "1", "--path", "/tmp", "more"],
    ],
)
def test_bad_arguments_are_refused(program: str, arguments: list[str]) -> None:
    result = subprocess.run([program, *arguments], capture_output=True)
    assert result.returncode == 2
