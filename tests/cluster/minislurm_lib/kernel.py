"""System calls that Python 3.11 does not offer, and what the kernel tells of processes.

A pid alone identifies nobody: pids are used again. A process is its pid with the time
it started; that pair goes to disk, and nothing is killed that does not match it.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_NOSUID = 2
MS_NODEV = 4
MS_NOATIME = 1024
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot {what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "make namespaces")


def mount(
    source: str | Path, target: str | Path, kind: str, flags: int = 0, data: str = ""
) -> None:
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode(),
        ctypes.c_ulong(flags),
        data.encode(),
    )
    _check(result, f"mount '{source}' on '{target}' ({kind or 'bind'} {data})")


def bind(source: str | Path, target: str | Path, flags: int = 0) -> None:
    mount(source, target, "", MS_BIND | flags)


def pivot_root(new_root: str, put_old: str) -> None:
    _check(
        _libc.pivot_root(new_root.encode(), put_old.encode()),
        f"make '{new_root}' the root",
    )


def unmount_lazily(target: str | Path) -> None:
    _check(_libc.umount2(os.fsencode(target), MNT_DETACH), f"unmount '{target}'")


def set_hostname(name: str) -> None:
    socket.sethostname(name)


@dataclass(frozen=True)
class Process:
    pid: int
    start: int

    def alive(self) -> bool:
        found = _state_and_start(self.pid)
        return found is not None and found[0] not in "ZX" and found[1] == self.start


def _state_and_start(pid: int) -> tuple[str, int] | None:
    """From /proc/PID/stat, from its end: the name in it may contain anything."""
    try:
        fields = (
            Path(f"/proc/{pid}/stat")
            .read_text(errors="replace")
            .rpartition(")")[2]
            .split()
        )
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0], int(fields[19])


def start_time(pid: int) -> int | None:
    found = _state_and_start(pid)
    return found[1] if found else None


def kill_and_wait(process: Process, seconds: float = 10.0) -> bool:
    """SIGKILL if it is still the same process. False: it did not end in that time."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        if start_time(process.pid) != process.start:
            return True
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        return bool(select.select([handle], [], [], seconds)[0])
    except ProcessLookupError:
        return True
    finally:
        os.close(handle)


def wait_until(condition, seconds: float, step: float = 0.02) -> bool:
    """Poll a cheap condition. False: it did not hold within the time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(step)
    return True
