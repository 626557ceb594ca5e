"""Thousands of nodes receive an object at once: what their manager takes for it.

The manager is a real one; the nodes are real control connections with the node's core
behind each (tests/bench/crowd.c), in one process and made up below that: no disks, no
links, a piece every so often. They run on the manager's own node, so that its processor
time is not that of a bridge as well.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import common
import idle
from cluster import Cluster
from common import REPO, BenchError, Bound
from minislurm_lib.commands import in_node
from minislurm_lib.layout import CONTROLLER

CROWD = REPO / "build/crowd"
PIECES = 512
PIECE_US = 40_000  # 1 GB in as many pieces, at 400 Mbit/s
CPU_LIMIT_S = 2.0
MEMORY_LIMIT_MIB = 64.0
LIMIT_NODES = 4096
SPARE_FILES = 64
READY_SECONDS = 120


def node_counts() -> list[int]:
    return [256] if common.quick() else [256, 1024, LIMIT_NODES]


def check_files(pid: int, nodes: int) -> None:
    """A descriptor a node, and one more while its socket is full, at either end."""
    for line in Path(f"/proc/{pid}/limits").read_text().splitlines():
        if line.startswith("Max open files"):
            limit = line.split()[3]
            if limit != "unlimited" and int(limit) < nodes + SPARE_FILES:
                raise BenchError(
                    f"{nodes} connections need as many open files, the limit is "
                    f"{limit}: raise it (ulimit -Hn {2 * nodes + SPARE_FILES})"
                )


def answer(child: subprocess.Popen[str], what: str) -> str:
    assert child.stdout is not None
    line = child.stdout.readline().strip()
    if not line:
        raise BenchError(f"the crowd ended before it {what}")
    return line


def measure(cluster: Cluster, program: str, nodes: int) -> dict[str, Any]:
    """A manager of its own for each count: its peak is that of this crowd."""
    cluster.daemon(CONTROLLER, "stop")
    cluster.daemon(CONTROLLER, "start")
    pid = common.daemon_pid(cluster, CONTROLLER, "vine-managerd")
    check_files(pid, nodes)
    words = [program, "127.0.0.1", str(nodes), str(PIECES), str(PIECE_US)]
    with subprocess.Popen(
        in_node(cluster.layout, CONTROLLER, words),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            answer(child, "was registered")
            registered = idle.cpu_seconds(pid)
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
            told = json.loads(answer(child, "had received"))
            used = idle.cpu_seconds(pid) - registered
            peak = idle.status_numbers(Path(f"/proc/{pid}/status"))["VmHWM"] / 1024
        finally:
            child.kill()
    return {
        "nodes": nodes,
        "pieces": PIECES,
        "registered_cpu_s": registered,
        "cpu_s": used,
        "peak_mib": peak,
        **told,
    }


def measured(cluster: Cluster, program: str, nodes: int) -> dict[str, Any]:
    """The round with the median of the manager's CPU, and `cpu_rounds_s`: of all."""
    rounds = [measure(cluster, program, nodes) for _ in range(common.rounds())]
    rounds.sort(key=lambda row: row["cpu_s"])
    return rounds[len(rounds) // 2] | {"cpu_rounds_s": [r["cpu_s"] for r in rounds]}


def table(rows: list[dict[str, Any]]) -> str:
    header = ["nodes", "seconds", "of at least", "messages in", "out"]
    header += ["manager's CPU", "peak memory"]
    return common.markdown(
        header,
        [
            [
                f"{r['nodes']:,}",
                f"{r['seconds']:.1f}",
                f"{r['ideal_seconds']:.1f}",
                f"{r['sent']:,}",
                f"{r['received']:,}",
                f"{r['cpu_s']:.2f} s ({r['cpu_rounds_s'][0]:.2f} to "
                f"{r['cpu_rounds_s'][-1]:.2f})",
                f"{r['peak_mib']:.1f} MiB",
            ]
            for r in rows
        ],
    )


def bounds(rows: list[dict[str, Any]]) -> list[Bound]:
    """The limits are those of 4,096 nodes; fewer must keep them as well."""
    last = rows[-1]
    name = f"manager of {last['nodes']} nodes that receive"
    return [
        Bound(f"{name}: CPU", last["cpu_s"], CPU_LIMIT_S, "s"),
        Bound(f"{name}: memory", last["peak_mib"], MEMORY_LIMIT_MIB, "MiB"),
    ]


def run() -> dict[str, Any]:
    if not CROWD.exists():
        raise BenchError(f"'{CROWD}' is missing: make build/crowd")
    with common.running_cluster(1) as cluster:
        copy = shutil.copy(CROWD, cluster.layout.home / "vine1/crowd")
        rows = [measured(cluster, "/home/vine1/crowd", n) for n in node_counts()]
        copy.unlink()
    print(table(rows))
    return {"rows": rows, "bounds": bounds(rows)}


if __name__ == "__main__":
    sys.exit(common.main("crowd", run))
