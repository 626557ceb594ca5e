"""Loop devices of a cluster: its nodes' disks, and images mounted from files on them.

A loop device belongs to the whole machine and may outlive its node. A node's disk goes
by itself with its last user; a device on a file inside of it has to be told, for a true
power failure would have ended it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from .commands import run
from .errors import MinislurmError
from .kernel import Process, wait_until
from .layout import Layout

OWN_PLACES = ("/local", "/pfs", "/run")


def _devices() -> list[dict[str, str]]:
    columns = "NAME,BACK-INO,BACK-MAJ:MIN,MAJ:MIN"
    found = run(["losetup", "--list", "--json", "--output", columns])
    listed = json.loads(found)["loopdevices"] if found.strip() else []
    return [
        {key: str(value).strip() for key, value in device.items()} for device in listed
    ]


def _number(device: int) -> str:
    return f"{os.major(device)}:{os.minor(device)}"


def _disk_of(image: Path, devices: list[dict[str, str]]) -> str | None:
    """MAJ:MIN of the loop device on this file."""
    try:
        status = image.stat()
    except FileNotFoundError:
        return None
    for device in devices:
        same_file = device["back-ino"] == str(status.st_ino)
        if same_file and device["back-maj:min"] == _number(status.st_dev):
            return device["maj:min"]
    return None


def _mounted(pid: int | str, places: tuple[str, ...]) -> set[str]:
    """MAJ:MIN of what this process sees mounted at places that begin like these."""
    try:
        lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    except OSError:
        return set()
    mounts = [line.split() for line in lines]
    return {mount[2] for mount in mounts if mount[4].startswith(places)}


def file_systems(process: Process) -> set[str]:
    """MAJ:MIN of a living node's own file systems that may carry images. What the host
    has anywhere is not its own: a node that is half built has the host's directories
    bound below /run, and on their file system lie other clusters' disks too."""
    return _mounted(process.pid, OWN_PLACES) - _mounted("self", ("/",))


def free(layout: Layout, nodes: list[str], file_systems_before: set[str]) -> None:
    """After the death of nodes: wait until their loop devices are gone."""
    images = [layout.node_dir(node) / "local.img" for node in nodes]
    stubborn: list[str] = []

    def all_gone() -> bool:
        devices = _devices()
        disks = {disk for image in images if (disk := _disk_of(image, devices))}
        nested = [
            d["name"]
            for d in devices
            if d["back-maj:min"] in disks | file_systems_before
        ]
        for name in nested:
            run(["losetup", "--detach", name], check=False)
        stubborn[:] = [
            *nested,
            *(f"/dev/loop{disk.partition(':')[2]}" for disk in disks),
        ]
        return not stubborn

    if not wait_until(all_gone, seconds=10):
        raise MinislurmError(f"loop devices stay in use: {' '.join(stubborn)}")
