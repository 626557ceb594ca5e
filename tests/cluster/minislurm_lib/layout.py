"""Where things are: the cluster's directory, nodes, users, and records on disk.

Everything a cluster owns can be found from its directory, so that any later `down`
cleans up, whatever became of the process that started it.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .errors import MinislurmError
from .kernel import Process

REPO = Path(__file__).resolve().parents[3]
SUBNET = "10.77.0"
NODES_MAX = 64
SWITCH = "switch"
CONTROLLER = "ctl"
USERS = {"vine1": 20001, "vine2": 20002}
SHARED_GROUP = ("vine", 20100)
LOCAL_BYTES = 4 << 30


@dataclass
class Settings:
    """What `up` was asked for; kept because `boot` needs it again."""

    nodes: int = 8
    rate: str = "400mbit"
    vine: bool = True
    pfs: dict[str, int] = field(default_factory=dict)


def default_base() -> Path:
    return Path(os.environ.get("MINISLURM_DIR") or f"/tmp/minislurm-{os.getuid()}")


class Layout:
    """Paths and records of one cluster."""

    def __init__(self, base: Path) -> None:
        self.base = Path(os.path.abspath(base))
        if set(str(self.base)) & set(":,\\"):
            raise MinislurmError(
                f"bad directory '{self.base}': overlayfs takes no ':', ',' or '\\'"
            )
        self.marker = self.base / "minislurm.json"
        self.etc = self.base / "etc"
        self.home = self.base / "home"
        self.install = self.base / "install"
        self.pfs_backing = self.base / "pfs"
        self.pfs_control = self.base / "pfs.control"

    def node_dir(self, node: str) -> Path:
        return self.base / "nodes" / node

    def log_dir(self, node: str) -> Path:
        return self.node_dir(node) / "log"

    def exists(self) -> bool:
        return self.marker.exists()

    def save_settings(self, settings: Settings) -> None:
        write_whole(self.marker, json.dumps(asdict(settings)))

    def settings(self) -> Settings:
        if not self.exists():
            raise MinislurmError(
                f"no cluster in '{self.base}': start one with 'minislurm up'"
            )
        return Settings(**json.loads(self.marker.read_text()))

    def compute_nodes(self) -> list[str]:
        return [f"n{i}" for i in range(1, self.settings().nodes + 1)]

    def all_nodes(self) -> list[str]:
        return [CONTROLLER, *self.compute_nodes()]

    def check_node(self, node: str) -> None:
        if node not in self.all_nodes():
            last = self.settings().nodes
            raise MinislurmError(f"no node '{node}': there are ctl and n1 to n{last}")

    def save_process(self, node: str, process: Process) -> None:
        write_whole(self.node_dir(node) / "init.json", json.dumps(asdict(process)))

    def drop_process(self, node: str) -> None:
        (self.node_dir(node) / "init.json").unlink(missing_ok=True)

    def process(self, node: str) -> Process | None:
        """The first process of a node as recorded, dead or alive."""
        try:
            return Process(
                **json.loads((self.node_dir(node) / "init.json").read_text())
            )
        except FileNotFoundError:
            return None

    def recorded(self) -> dict[str, Process]:
        found = {path.parent.name for path in self.base.glob("nodes/*/init.json")}
        return {
            node: process for node in sorted(found) if (process := self.process(node))
        }

    def running(self, node: str) -> Process:
        process = self.process(node)
        if process is None or not process.alive():
            raise MinislurmError(
                f"node '{node}' is not running: 'minislurm boot {node}' starts it"
            )
        return process


def write_whole(path: Path, text: str) -> None:
    """Never half a file, whenever we are killed."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text)
    temporary.rename(path)


def address(node: str) -> str:
    return f"{SUBNET}.1" if node == CONTROLLER else f"{SUBNET}.{10 + int(node[1:])}"
