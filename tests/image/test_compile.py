"""vine-env pack --compile; and what is left when packing is interrupted: nothing."""

import importlib.util
import json
import marshal
import os
import pty
import py_compile
import signal
import subprocess
import sys
import tarfile
import time
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import USER, mounted, run_cli

TIMESTAMP = py_compile.PycInvalidationMode.TIMESTAMP
SITE = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
RANDOM_BYTES = 200 << 20  # half a second of packing at least, on one processor
SLOW = ["taskset", "-c", str(min(os.sched_getaffinity(0)))]


def cached(source: Path) -> Path:
    return Path(importlib.util.cache_from_source(str(source)))


def flags(source: Path) -> int:
    return int.from_bytes(cached(source).read_bytes()[4:8], "little")


def make_env(prefix: Path) -> Path:
    """Modules whose byte code is missing, good, stale, and of a time rounded up."""
    venv.create(prefix, symlinks=True)
    site = prefix / SITE
    for name in ("missing", "good", "stale", "rounded"):
        (site / f"{name}.py").write_text(f"name = {name!r}\n")
        if name != "missing":
            py_compile.compile(str(site / f"{name}.py"), invalidation_mode=TIMESTAMP)
    os.utime(site / "stale.py", (1_700_000_000, 1_700_000_000))
    os.utime(site / "rounded.py", ns=(0, 1_700_000_000_999_999_999))
    py_compile.compile(str(site / "rounded.py"), invalidation_mode=TIMESTAMP)
    (site / "package").mkdir(mode=0o750)
    (site / "package" / "inner.py").write_text("x = 1\n")
    (site / "package" / "inner.py").chmod(0o640)
    (site / "bad.py").write_text("def (\n")
    (site / "left_out.py").write_text("x = 1\n")
    return site


def test_missing_byte_code_is_added(program: str, cli: str, space: Path) -> None:
    prefix, image = space / "env", space / "env.sqsh"
    make_env(prefix)
    before = sorted(prefix.rglob("*"))
    words = ["pack", "--local", prefix, "-o", image, "--compile", "--json"]
    result = run_cli(cli, *words, "--exclude", "left_out*")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert (document["compiled"], document["not_compiled"]) == (5, 1)
    assert sorted(prefix.rglob("*")) == before  # the environment is as it was
    assert sorted(p.name for p in space.iterdir()) == ["env", "env.sqsh"]
    with mounted(image, space / "mnt") as mnt:
        inside = mnt / SITE
        assert flags(inside / "good.py") == 0  # a timestamp that is still right
        for name in ("missing", "stale", "rounded", "package/inner"):
            assert flags(inside / f"{name}.py") == 1, name  # never compared
        assert not cached(inside / "bad.py").exists()
        assert not cached(inside / "left_out.py").exists()
        made = cached(inside / "package" / "inner.py").stat()
        assert (made.st_mode & 0o777, made.st_mtime) == (
            0o640,
            int(prefix.stat().st_mtime),
        )
        assert (inside / "package" / "__pycache__").stat().st_mode & 0o777 == 0o750
        code = marshal.loads(cached(inside / "missing.py").read_bytes()[16:])
        assert code.co_filename == str(prefix / SITE / "missing.py")
        # Python takes them as they are.
        code = "import good, missing, rounded, stale"
        loaded = subprocess.run(
            [sys.executable, "-v", "-c", code],
            env={"PYTHONPATH": str(inside)},
            capture_output=True,
            text=True,
            check=True,
        )
        for name in ("good", "missing", "rounded", "stale"):
            assert (
                f"code object from '{cached(inside / f'{name}.py')}'" in loaded.stderr
            )


def test_byte_code_names_the_place_that_was_asked_for(
    program: str, cli: str, space: Path
) -> None:
    make_env(space / "env")
    words = ["pack", "--local", space / "env", "-o", space / "env.sqsh", "--compile"]
    assert run_cli(cli, *words, "--prefix", "/shared/envs/ml").returncode == 0
    with mounted(space / "env.sqsh", space / "mnt") as mnt:
        made = cached(mnt / SITE / "missing.py").read_bytes()
        code = marshal.loads(made[16:])
        assert code.co_filename == f"/shared/envs/ml/{SITE}/missing.py"


def test_who_cannot_be_compiled(program: str, cli: str, space: Path) -> None:
    plain, broken, out = space / "plain", space / "broken", space / "out"
    plain.mkdir()
    out.mkdir()
    (broken / "bin").mkdir(parents=True)
    (broken / "bin" / "python3").write_text(
        "#!/bin/sh\necho no libpython >&2\nexit 3\n"
    )
    (broken / "bin" / "python3").chmod(0o755)
    with tarfile.open(space / "env.tar", "w") as tar:
        tar.add(broken, ".")
    for source, why in {
        plain: "it has no bin/python3 that can be run",
        broken: f"cannot compile with '{broken}/bin/python3': no libpython",
        space / "env.tar": "is no directory: its own Python compiles",
        space / "none": "cannot look at",
    }.items():
        words = ["pack", "--local", source, "-o", out / "x.sqsh", "--compile"]
        result = run_cli(cli, *words)
        assert result.returncode == 1
        assert why in result.stderr
        assert str(source) in result.stderr
        assert list(out.iterdir()) == []


def wait_for(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_packing_leaves_nothing(
    cli: str, space: Path, number: signal.Signals
) -> None:
    tree, out = space / "tree", space / "out"
    tree.mkdir()
    out.mkdir()
    (tree / "random").write_bytes(os.urandom(RANDOM_BYTES))
    command = [*SLOW, cli, "pack", "--local", str(tree), "-o", str(out / "x.sqsh")]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        wait_for(lambda: any(out.iterdir()))
        assert [p.name for p in out.iterdir()] == [f"x.sqsh.tmp-{process.pid}"]
        process.send_signal(number)
        assert process.wait(60) == -number
    assert list(out.iterdir()) == []


def test_what_a_shell_ignores_stays_ignored(cli: str, space: Path) -> None:
    tree, out = space / "tree", space / "out"
    tree.mkdir()
    out.mkdir()
    (tree / "random").write_bytes(os.urandom(RANDOM_BYTES // 4))
    command = [*SLOW, cli, "pack", "--local", str(tree), "-o", str(out / "x.sqsh")]
    nohup = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *command]
    with subprocess.Popen(nohup, stdout=subprocess.DEVNULL) as process:
        wait_for(lambda: any(out.iterdir()))
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 0
    assert [p.name for p in out.iterdir()] == ["x.sqsh"]


def test_an_interrupted_compilation_leaves_nothing(cli: str, space: Path) -> None:
    env, out, started = space / "env", space / "out", space / "started"
    (env / "bin").mkdir(parents=True)
    out.mkdir()
    python = env / "bin" / "python3"
    python.write_text(
        f'#!/bin/sh\nmkfifo "$6/fifo"\necho $$ >{started}\ncat "$6/fifo"\n'
    )
    python.chmod(0o755)
    command = [cli, "pack", "--local", str(env), "-o", str(out / "x.sqsh"), "--compile"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        wait_for(lambda: started.exists() and started.read_text() != "")
        assert [p.name for p in out.iterdir()] == [f"x.sqsh.compile-{process.pid}"]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == -signal.SIGINT
    assert list(out.iterdir()) == []
    child = int(started.read_text())
    wait_for(lambda: not Path(f"/proc/{child}").exists())


def on_a_terminal(command: list[str]) -> str:
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stderr=theirs, stdout=subprocess.DEVNULL) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                seen += os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
    os.close(ours)
    assert process.returncode == 0
    return seen.decode()


def test_a_terminal_sees_how_far_it_is(cli: str, space: Path) -> None:
    tree = space / "tree"
    tree.mkdir()
    (tree / "random").write_bytes(os.urandom(RANDOM_BYTES))
    command = [
        cli,
        "pack",
        "--local",
        str(tree),
        "--force",
        "-o",
        str(space / "x.sqsh"),
    ]
    seen = on_a_terminal([*SLOW, *command])
    assert f"{tree}: packing [" in seen
    assert " %  " in seen and "MB/s" in seen and " left" in seen
    assert seen.endswith("\r\033[K")  # and is gone at the end
    assert on_a_terminal([*command, "--quiet"]) == ""
    assert on_a_terminal([*command, "--json"]) == ""
    quiet = run_cli(*command, "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


def test_compiling_as_an_ordinary_user(cli: str, space: Path) -> None:
    prefix, out = space / "env", space / "out"
    make_env(prefix)
    (prefix / SITE / "package").chmod(0o755)
    (prefix / SITE / "package" / "inner.py").chmod(0o644)
    out.mkdir()
    out.chmod(0o777)
    command = [
        cli,
        "pack",
        "--local",
        str(prefix),
        "-o",
        str(out / "x.sqsh"),
        "--compile",
    ]
    result = subprocess.run(command, user=USER, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert [p.name for p in out.iterdir()] == ["x.sqsh"]
