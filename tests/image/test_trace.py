"""vine-env trace: what of an environment a command opens, seen as an ordinary user."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
from conftest import USER, run_cli
from envs import PYTHON, SITE, file_bytes, make_conda

READ = "import sys; [open(p).read(1) for p in sys.argv[1:]]"


def paths(trace: Path) -> list[str]:
    lines = trace.read_text().splitlines()
    assert lines[0] == "# vine-env trace 1"
    assert lines[1].startswith("# prefix /")
    return lines[2:]


@pytest.fixture
def env(cli: str, space: Path) -> Path:
    prefix = space / "env"
    make_conda(prefix)
    return prefix


def test_a_conda_prefix_and_what_is_never_touched(cli: str, env: Path) -> None:
    numpy = env / SITE / "numpy" / "c.so"
    words = ["--env", env, "--", sys.executable, "-c", READ, numpy, numpy]
    result = run_cli(cli, "trace", "--json", *words)
    assert result.returncode == 0, result.stderr
    seen: dict[str, Any] = json.loads(result.stdout)
    files, total = file_bytes(env)
    assert (seen["prefix"], seen["status"]) == (str(env), 0)
    assert (seen["files"], seen["bytes"], seen["unseen"]) == (files, total, 0)
    assert (seen["opened_files"], seen["opened_bytes"]) == (1, numpy.stat().st_size)
    opened = {p["name"]: p["opened_files"] for p in seen["packages"]}
    assert opened == {"mkl": 0, "numpy": 1, "python": 0, "six": 0, "conda-meta/": 0}
    text = run_cli(cli, "trace", *words).stderr
    assert f"opened 1 of {files} files, 300.0 kB of 1.2 MB (25 %) of {env}" in text
    assert "4 of 5 packages were never touched, 899.3 kB (75 %)" in text
    assert [line.split()[0] for line in text.splitlines()[3:]] == [
        "mkl",
        "python",
        "six",
        "conda-meta/",
    ]


def test_every_way_to_a_file_is_seen(cli: str, env: Path, space: Path) -> None:
    """By links, relative to descriptors, in children and in threads."""
    (env / "bin" / "python").symlink_to("python3.11")
    (space / "outside").symlink_to(env / "lib" / "libmkl_core.so.2")
    (env / "bin" / "run").write_text(f"#!{env}/bin/interpreter -x\n")
    (env / "bin" / "interpreter").write_bytes(Path("/bin/true").read_bytes())
    for name in ("run", "interpreter"):
        (env / "bin" / name).chmod(0o755)
    script = f"""
import os, subprocess, threading
os.chdir({str(env)!r})
open("bin/python").close()
fd = os.open("lib", os.O_RDONLY)
os.open("python3.11/json/../json/decoder.py", os.O_RDONLY, dir_fd=fd)
open({str(space / "outside")!r}).close()
t = threading.Thread(target=lambda: open({SITE!r} + "/six.py").close())
t.start(); t.join()
subprocess.run(["cat", "conda-meta/history"], check=True)
subprocess.run([{str(env / "bin/run")!r}], check=True)
assert not os.path.exists("none")
for missing in ("none", "lib"):
    try:
        open(missing)
    except OSError:
        pass
"""
    trace = space / "t.trace"
    words = ["--env", env, "-o", trace, "--", sys.executable, "-c", script]
    result = run_cli(cli, "trace", *words)
    assert result.returncode == 0, result.stderr
    assert paths(trace) == [
        "bin/python3.11",
        f"{PYTHON}/json/decoder.py",
        "lib/libmkl_core.so.2",
        f"{SITE}/six.py",
        "conda-meta/history",
        "bin/run",
        "bin/interpreter",
    ]


def test_a_static_program_is_seen(cli: str, env: Path, space: Path) -> None:
    source, program = space / "p.c", space / "p"
    source.write_text(
        "#include <fcntl.h>\nint main(int c, char **v)"
        "{ return open(v[1], O_RDONLY) < 0; }\n"
    )
    subprocess.run(["gcc", "-static", "-o", program, source], check=True)
    words = ["--env", env, "-o", space / "t", "--", program, env / SITE / "six.py"]
    assert run_cli(cli, "trace", *words).returncode == 0
    assert paths(space / "t") == [f"{SITE}/six.py"]


def test_a_venv_is_found_by_its_command_and_its_trace_sorts(
    program: str, cli: str, space: Path
) -> None:
    prefix, out = space / "my venv", space / "out"
    venv.create(prefix, with_pip=True)
    out.mkdir()
    out.chmod(0o777)
    command = ["trace", "-o", str(out / "t.trace"), "--", "python", "-c", "import pip"]
    result = subprocess.run(
        [cli, *command],
        user=USER,
        capture_output=True,
        text=True,
        env={"PATH": f"{prefix}/bin:/usr/bin:/bin"},
    )
    assert result.returncode == 0, result.stderr
    seen = paths(out / "t.trace")
    assert "pyvenv.cfg" in seen
    assert any(p.startswith(f"lib/python{sys.version_info[0]}.") for p in seen)
    packed = run_cli(
        cli,
        *("pack", "--local", prefix, "-o", space / "env.sqsh"),
        *("--sort-by-trace", out / "t.trace"),
    )
    assert packed.returncode == 0, packed.stderr


def test_the_active_environment_is_the_one(cli: str, env: Path) -> None:
    words = ["trace", "--json", "--", "/bin/cat", env / SITE / "six.py"]
    for variable in ("CONDA_PREFIX", "VIRTUAL_ENV"):
        result = run_cli(cli, *words, env={variable: str(env)})
        seen = json.loads(result.stdout)  # cat's own output went to stderr
        assert (seen["prefix"], seen["opened_files"]) == (str(env), 1)
        assert "x = 1" in result.stderr


def test_the_command_keeps_its_status_and_its_output(
    cli: str, env: Path, space: Path
) -> None:
    words = ["trace", "--env", env, "-o", space / "t", "--"]
    result = run_cli(cli, *words, "sh", "-c", f"cat {env}/{SITE}/six.py; exit 7")
    assert (result.returncode, result.stdout) == (7, "x = 1\n" * 5_000)
    assert paths(space / "t") == [f"{SITE}/six.py"]
    assert run_cli(cli, *words, "sh", "-c", "kill -TERM $$").returncode == 128 + 15


def test_what_it_leaves_running_goes_on(cli: str, env: Path, space: Path) -> None:
    """Nobody answers for it would mean that it cannot open anything any more."""
    fifo, copy = space / "fifo", space / "copy"
    os.mkfifo(fifo)
    late = f"(read x <{fifo}; cat {env}/{SITE}/six.py >{copy}; echo >{fifo}) >/dev/null"
    words = ["trace", "--env", env, "--json", "--", "sh", "-c", f"{late} 2>&1 &"]
    result = run_cli(cli, *words)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["opened_files"] == 0
    fifo.write_text("go\n")
    assert fifo.read_text() == "\n"
    assert copy.read_text() == "x = 1\n" * 5_000


def test_what_cannot_be_traced(cli: str, env: Path, space: Path) -> None:
    out = space / "out"
    out.mkdir()
    given = ["--env", env]
    cases: list[tuple[list[str | Path], str]] = [
        (
            [*given, "--", "no-such-program"],
            "cannot run 'no-such-program': No such file",
        ),
        ([*given, "--", out], f"cannot run '{out}': Permission denied"),
        (
            ["--", "/bin/true"],
            "cannot tell which environment '/bin/true' uses: say --env",
        ),
        (["--env", space / "none", "--", "true"], "cannot find the environment"),
        (
            ["--env", env / "bin/python3.11", "--", "true"],
            "cannot open the environment",
        ),
        ([*given, "-o", space / "none" / "t", "--", "true"], "cannot create"),
        (
            [*given, "--", cli, "trace", *given, "--", "true"],
            "another program hears of this one's calls already",
        ),
    ]
    for words, why in cases:
        plain = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"}
        command = [cli, "trace", *map(str, ["-o", out / "t", *words])]
        result = subprocess.run(command, capture_output=True, text=True, env=plain)
        assert result.returncode == 1, words
        assert why in result.stderr
        (out / "t").unlink(missing_ok=True)  # the outer one of two has its trace
        assert list(out.iterdir()) == []
    result = run_cli(cli, "trace", "--env", env, "--frobnicate", "--", "true")
    assert result.returncode == 2
    assert "the form is: vine-env trace" in result.stderr
