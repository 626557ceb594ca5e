"""The demo's hands: the test cluster and vine-env's tools, as functions."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
MINISLURM = REPO / "tests/cluster/minislurm"
# A believable loaded parallel file system: a round trip of 1 ms, a metadata server of
# 2,000 operations a second, 200 MB/s for all, 100 MB/s for one client.
PFS_COSTS = {"lat_us": 1000, "mds_ops": 2000, "bw_mbs": 200, "client_mbs": 100}
# A cluster of its own, beside one that tests may use.
os.environ.setdefault("MINISLURM_DIR", "/tmp/vine-env-demo")
PFS_FREE = dict.fromkeys(PFS_COSTS, 0)


class DemoError(Exception):
    """Something that the person who runs the demo must read."""


def assignments(values: dict[str, int]) -> list[str]:
    return [f"{key}={value}" for key, value in values.items()]


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise DemoError(f"waited {seconds:.0f} s in vain until {what}")
        time.sleep(0.2)


def run(command: list[str], timeout: float, data: bytes | None = None) -> str:
    """Standard output; standard error goes to the terminal."""
    try:
        done = subprocess.run(
            command, input=data, stdout=subprocess.PIPE, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        raise DemoError(
            f"not done after {timeout:.0f} s: {' '.join(command)}"
        ) from None
    if done.returncode != 0:
        tail = done.stdout.decode(errors="replace")[-2000:]
        raise DemoError(f"exit status {done.returncode}: {' '.join(command)}\n{tail}")
    return done.stdout.decode(errors="replace")


class Lab:
    """One cluster for one demo; `with Lab(...)` takes it down whatever happens."""

    def __init__(self, nodes: int, rate: str, keep: bool = False) -> None:
        self.nodes = [f"n{i + 1}" for i in range(nodes)]
        self.rate = rate
        self.keep = keep

    def __enter__(self) -> "Lab":
        costs = ",".join(assignments(PFS_COSTS))
        count = str(len(self.nodes))
        self.down()  # what a killed demo may have left
        try:
            self.minislurm("up", "--nodes", count, "--rate", self.rate, "--pfs", costs)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, kind: object = None, *_: object) -> None:
        if self.keep:
            return
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        try:
            self.down()
        except DemoError as error:
            if kind is None:
                raise
            say(str(error))  # the first fault is the one to hear of

    def down(self) -> None:
        if Path(os.environ["MINISLURM_DIR"]).exists():
            self.minislurm("down")

    def minislurm(self, *words: str, timeout: float = 120) -> str:
        return run([str(MINISLURM), *words], timeout)

    def root(self, node: str, *command: str, timeout: float = 60) -> str:
        return self.minislurm("exec", node, *command, timeout=timeout)

    def user(self, *command: str, timeout: float = 120) -> str:
        """As vine1 on n1, where the demo's user is logged in."""
        return self.minislurm("as", "vine1", "n1", *command, timeout=timeout)

    def send(self, files: list[Path], folder: str) -> None:
        """Copy files into a folder of vine1's, through a tar stream."""
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as tar:
            for file in files:
                tar.add(file, arcname=file.name)
        self.user("mkdir", "-p", folder)
        words = ["as", "vine1", "n1", "tar", "-x", "--no-same-owner", "-C", folder]
        run([str(MINISLURM), *words], timeout=60, data=stream.getvalue())

    # --- the shared file system -----------------------------------------------------

    def pfs_set(self, values: dict[str, int]) -> None:
        self.minislurm("pfs", "set", *assignments(values))

    def pfs_drop_caches(self) -> None:
        self.minislurm("pfs", "drop-caches")

    def pfs_counters(self) -> tuple[int, int]:
        """(metadata operations, bytes read and written) since the cluster is up."""
        shown = json.loads(self.minislurm("pfs", "show", "--json"))
        return shown["meta_ops"], shown["bytes_read"] + shown["bytes_written"]

    # --- Slurm and vine-env ---------------------------------------------------------

    def wait_idle(self) -> None:
        """No job left and every node fit for the next."""

        def idle() -> bool:
            states = self.root("n1", "sinfo", "-h", "-N", "-o", "%T").split()
            queue = self.root("n1", "squeue", "-h").strip()
            return not queue and states == ["idle"] * len(self.nodes)

        wait_for(idle, 60, "all jobs were gone and all nodes idle")

    def evict_all(self) -> None:
        """Empty the nodes' caches; a job that is gone may hold its lease a moment."""

        def evicted() -> bool:
            kept = 0
            for node in self.nodes:
                answer = self.root(node, "vine-env", "evict", "--all", "--json")
                kept += json.loads(answer)["kept_leased"]
            return kept == 0

        wait_for(evicted, 30, "all caches were empty")

    def node_bytes(self) -> tuple[int, int]:
        """(bytes from peers, from origins) of all nodes since their daemons run."""
        peer = origin = 0
        for node in self.nodes:
            status = json.loads(self.root(node, "vine-env", "status", "--json"))
            peer += status["node"]["bytes_peer"]
            origin += status["node"]["bytes_origin"]
        return peer, origin

    def link_bits_per_s(self) -> int:
        """What a link carries between two nodes, by iperf3."""
        target = self.root("n2", "getent", "hosts", "n2").split()[0]
        self.root("n2", "iperf3", "-s", "-1", "-D")
        report: dict[str, Any] = {}

        def measured() -> bool:
            nonlocal report
            command = [
                str(MINISLURM),
                "exec",
                "n1",
                "iperf3",
                "-c",
                target,
                "-t",
                "2",
                "-J",
            ]
            done = subprocess.run(command, capture_output=True, text=True, timeout=30)
            report = json.loads(done.stdout) if done.returncode == 0 else {}
            return "end" in report

        wait_for(measured, 10, "iperf3 answered")
        return int(report["end"]["sum_received"]["bits_per_second"])


def say(text: str) -> None:
    print(f"[{time.monotonic() - STARTED:5.0f} s] {text}", flush=True)


STARTED = time.monotonic()


def require_root() -> None:
    if os.geteuid() != 0:
        sys.exit("demo: the cluster's namespaces need root: run 'make demo' as root")
