"""Fixtures for tests that run the built vine-source and mount what comes out.

VINE_BUILD names the build directory (default: build). VINE_MUST_RUN=1 makes a test fail
that would be skipped.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "lib"))

BUILD = Path(os.environ.get("VINE_BUILD", ROOT / "build"))
USER = 20077  # an ordinary uid that nobody has


def skip(why: str) -> None:
    if os.environ.get("VINE_MUST_RUN") == "1":
        pytest.fail(f"must run, but: {why}")
    pytest.skip(why)


@pytest.fixture(scope="session")
def program() -> str:
    path = BUILD / "vine-source"
    if not path.exists():
        skip(f"no {path}: make all")
    if os.getuid() != 0:
        skip("needs root to become other users and to mount")
    return str(path)


@pytest.fixture(scope="session")
def cli() -> str:
    path = BUILD / "vine-env"
    if not path.exists():
        skip(f"no {path}: make all")
    return str(path)


def run_cli(
    cli: str, *arguments: str | Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A command of vine-env; `env` is added to the environment."""
    return subprocess.run(
        [cli, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **env} if env else None,
    )


@contextmanager
def mounted(image: str | Path, at: Path) -> Iterator[Path]:
    """The image, mounted read-only by the kernel; gone at the end, loop device too."""
    at.mkdir(exist_ok=True)
    subprocess.run(
        ["mount", "-t", "squashfs", "-o", "loop,ro,nosuid,nodev", str(image), str(at)],
        check=True,
    )
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)


@pytest.fixture
def space(tmp_path: Path) -> Path:
    """A directory that every user can pass."""
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_mode & 0o001 == 0:
            directory.chmod(directory.stat().st_mode | 0o011)
    return tmp_path
