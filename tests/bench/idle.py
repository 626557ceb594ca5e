"""Idle daemons: memory, wake-ups, and a manager that has 4,096 nodes without work.

Node daemons are looked at after work: an image was packed, staged and used on all
nodes. Wake-ups are voluntary context switches of all threads. The manager's nodes are
real control connections (tests/bench/thin.c).
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import common
from cluster import Cluster
from common import REPO, BenchError, Bound
from environments import make_environment, make_image
from minislurm_lib.layout import CONTROLLER, address

THIN = REPO / "build/thin"
TICKS = os.sysconf("SC_CLK_TCK")
RSS_LIMIT_MIB = 8.0
WAKEUPS_LIMIT = 1.0
MANAGER_LIMIT_PERCENT = 1.0


def seconds() -> int:
    return 15 if common.quick() else 60


def thin_nodes() -> int:
    return 256 if common.quick() else 4096


def status_numbers(path: Path) -> dict[str, int]:
    found = {}
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        word = value.split()[0] if value.split() else ""
        if word.isdigit():
            found[name] = int(word)
    return found


def switches(pid: int) -> int:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(status_numbers(t / "status")["voluntary_ctxt_switches"] for t in tasks)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def wait_idle(cluster: Cluster) -> None:
    """No job left anywhere, and a few heartbeats gone by."""
    for node in cluster.nodes:
        cluster.wait_for(
            lambda at=node: not cluster.status(at)["jobs"], 30, f"{node} to be idle"
        )
    time.sleep(25)


def nodes_idle(cluster: Cluster) -> list[dict[str, Any]]:
    env = make_environment(cluster, ballast_bytes=100 << 20)
    image, _ = make_image(cluster, env)
    for _ in range(3):
        cluster.srun("-N8", f"--vine-env={image}", env.script)
    wait_idle(cluster)
    pids = {node: common.daemon_pid(cluster, node, "vined") for node in cluster.nodes}
    before = {node: switches(pid) for node, pid in pids.items()}
    time.sleep(seconds())
    found = []
    for node, pid in pids.items():
        status = status_numbers(Path(f"/proc/{pid}/status"))
        found.append(
            {
                "node": node,
                "rss_mib": status["VmRSS"] / 1024,
                "private_mib": status["RssAnon"] / 1024,
                "files_mib": status["RssFile"] / 1024,
                "wakeups_per_s": (switches(pid) - before[node]) / seconds(),
            }
        )
    return found


def manager_idle(cluster: Cluster, count: int) -> dict[str, Any]:
    """The manager's share of a core with so many idle nodes, and its memory."""
    pid = common.daemon_pid(cluster, CONTROLLER, "vine-managerd")
    copy = shutil.copy(THIN, cluster.layout.home / "vine1/thin")
    thin = cluster.popen("n1", "/home/vine1/thin", address(CONTROLLER), str(count))
    cluster.wait_for(lambda: "ready" in thin.out or thin.ended, 180, "thin nodes")
    assert not thin.ended, thin.err
    time.sleep(12)  # the first pings are as far apart as the handshakes were
    begun, used, woken = time.monotonic(), cpu_seconds(pid), switches(pid)
    time.sleep(seconds())
    passed = time.monotonic() - begun
    result = {
        "nodes": count,
        "percent": 100 * (cpu_seconds(pid) - used) / passed,
        "wakeups_per_s": (switches(pid) - woken) / passed,
        "rss_mib": status_numbers(Path(f"/proc/{pid}/status"))["VmRSS"] / 1024,
    }
    assert not thin.ended, thin.err
    thin.kill()
    copy.unlink()
    return result


def run() -> dict[str, Any]:
    if not THIN.exists():
        raise BenchError(f"'{THIN}' is missing: make build/thin")
    with common.running_cluster(8) as cluster:
        nodes = nodes_idle(cluster)
        manager = manager_idle(cluster, thin_nodes())
    rows = [
        [n["node"]]
        + [f"{n[k]:.2f}" for k in ("rss_mib", "private_mib", "files_mib")]
        + [f"{n['wakeups_per_s']:.2f}"]
        for n in nodes
    ]
    header = ["node", "MiB resident", "private", "of files, shared", "wake-ups/s"]
    print(common.markdown(header, rows))
    print(f"\nmanager, {manager['nodes']} nodes: {manager['percent']:.2f} % of a core")
    bounds = [
        Bound(
            "idle node daemon", max(n["rss_mib"] for n in nodes), RSS_LIMIT_MIB, "MiB"
        ),
        Bound(
            "its wake-ups a second",
            max(n["wakeups_per_s"] for n in nodes),
            WAKEUPS_LIMIT,
        ),
        Bound(
            f"manager of {manager['nodes']} idle nodes",
            manager["percent"],
            MANAGER_LIMIT_PERCENT,
            "% of a core",
        ),
    ]
    return {"nodes": nodes, "manager": manager, "bounds": bounds}


if __name__ == "__main__":
    sys.exit(common.main("idle", run))
