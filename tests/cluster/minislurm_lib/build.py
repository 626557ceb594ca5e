"""What is built before a cluster starts: the stand-in file system, the project."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from .commands import run
from .layout import REPO, Layout

SOURCES = REPO / "tests/cluster"
WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Wno-unused-parameter"]


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Two clusters may come up at once and would build the same files."""
    with (SOURCES / "pfs.c").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build_pfs() -> Path:
    program = REPO / "build/tests/pfs"
    parts = [*SOURCES.glob("pfs*.c"), *SOURCES.glob("pfs*.h")]
    newest = max(part.stat().st_mtime for part in parts)
    with _one_at_a_time():
        if program.exists() and program.stat().st_mtime > newest:
            return program
        program.parent.mkdir(parents=True, exist_ok=True)
        fresh = program.with_suffix(".new")
        flags = shlex.split(run(["pkg-config", "--cflags", "--libs", "fuse3"]))
        sources = [part for part in parts if part.suffix == ".c"]
        compiler = shlex.split(os.environ.get("CC", "cc"))
        options = ["-std=gnu11", "-D_GNU_SOURCE", "-O2", "-g", *WARNINGS, "-o", fresh]
        run([*compiler, *options, *sources, *flags, "-lpthread"])
        fresh.rename(program)
    return program


def can_install() -> bool:
    """`make -n` fails if the target or a source of it is missing."""
    if not (REPO / "Makefile").exists():
        return False
    return "make: ***" not in run([*_make(), "-n", "install"], check=False)


def install(layout: Layout) -> None:
    places = [f"DESTDIR={layout.install}", "prefix=/usr", "sysconfdir=/etc"]
    with _one_at_a_time():
        run([*_make(), f"-j{os.cpu_count() or 1}", "install", *places])


def _make() -> list[str]:
    """Not a part of the make that may have started us: its flags are not ours."""
    unset = ["-u", "MAKEFLAGS", "-u", "MFLAGS", "-u", "MAKELEVEL", "-u", "DESTDIR"]
    return ["env", *unset, "make", "--no-print-directory", "-C", str(REPO)]
