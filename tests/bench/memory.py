"""Memory as a node of one's own has it, on a machine that shares its memory.

A virtual machine's hypervisor takes back what lies free for a while (free page
reporting, balloons); who touches it next waits until it is given again: 1.4 GB took
0.75 s to write where it had been touched just before, 1.6 s after 12 s of rest, 4.7 s
when the machine had been idle for long. All nodes of a bench are in one machine and so
wait for each other. What is measured therefore begins with memory that is there:
an update of 8 nodes took 3.0 s with it, 3.9 to 4.9 s without, the more the longer the
machine had been up; its CPU seconds in the kernel were 1.7 against 3.9 to 5.6.
"""

from __future__ import annotations

import mmap
from pathlib import Path

# 8 nodes write an image of 0.2 GB, and what their disks are made of once more.
TOUCHED_MAX = 6 << 30  # bytes
MADV_POPULATE_WRITE = 23  # <linux/mman.h>; Linux 5.14


def available_bytes(meminfo: str) -> int:
    """What /proc/meminfo, given as text, says could be used, in bytes.

    Raises ValueError if it does not say so.
    """
    for line in meminfo.splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    raise ValueError("/proc/meminfo has no line 'MemAvailable'")


def touch(limit: int = TOUCHED_MAX) -> int:
    """Write to free memory, at most a third of it and `limit` bytes, and free it.

    The kernel hands out next what was freed last. Returns the bytes touched; raises
    OSError where the kernel is older than 5.14.
    """
    free = available_bytes(Path("/proc/meminfo").read_text(encoding="ascii"))
    size = min(limit, free // 3) // mmap.PAGESIZE * mmap.PAGESIZE
    with mmap.mmap(-1, size) as memory:
        memory.madvise(MADV_POPULATE_WRITE)
    return size
