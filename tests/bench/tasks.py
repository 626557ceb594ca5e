"""200 Parsl tasks with three inputs of 100 MB that all share, on 8 nodes.

By Parsl's default staging, which lets tasks open the path that they were given, and by
VineStaging; each with cold nodes. The shared file system must give each input once, and
the tasks must be through no later than by Parsl's own way.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import common
from cluster import Cluster
from common import Bound
from parsl_user import USER, install_packages, result_of, start_script

NODES = 8
TASKS = 200
INPUTS = 3
FOLDER = f"/pfs/home/{USER}/inputs"
SHARE_READ = 1.05
RUN_SECONDS = 240
WAYS: dict[str, dict[str, Any] | None] = {
    "default": None,
    "vine": {"prefixes": ["/pfs/"]},
}


def input_bytes() -> int:
    return (10 if common.quick() else 100) * 1_000_000


def make_inputs(cluster: Cluster) -> list[str]:
    paths = [f"{FOLDER}/input-{n}.bin" for n in range(INPUTS)]
    cluster.run("n1", "mkdir", "-p", FOLDER, user=USER)
    for path in paths:
        make = f"head -c {input_bytes()} /dev/urandom > {path}"
        cluster.sh("n1", make, user=USER)
    return paths


def measure(
    cluster: Cluster, packages: str, paths: list[str], way: str
) -> dict[str, Any]:
    cluster.evict_all()
    wish = {
        "nodes": NODES,
        "workers": 2,
        "tasks": TASKS,
        "inputs": paths,
        "seconds": 0,
        "digest": False,
        "staging": WAYS[way],
    }
    cluster.pfs_drop_caches()
    cluster.pfs_zero()
    links = common.received_bytes(cluster)
    script = start_script(
        cluster, packages, "parsl_files.py", "share", json.dumps(wish)
    )
    found = result_of(script, RUN_SECONDS)
    tasks, counters = found["tasks"], cluster.pfs_counters()
    for task in tasks:
        assert len(task["files"]) == INPUTS, task
        assert all(size == input_bytes() for _, size in task["files"]), task
    nodes = {task["node"] for task in tasks}
    assert len(nodes) == NODES, f"tasks ran on {sorted(nodes)} only"
    ended = [task["ended"] - found["began"] for task in tasks]
    return {
        "way": way,
        "first_s": min(ended),
        "all_s": max(ended),
        "pfs_bytes": counters["bytes_read"],
        "pfs_ops": counters["meta_ops"] + counters["io_ops"],
        "link_bytes": common.received_bytes(cluster) - links,
    }


def table(rows: list[dict[str, Any]]) -> str:
    header = ["staging", "first task s", "all s", "/pfs MB", "/pfs ops", "links MB"]
    return common.markdown(
        header,
        [
            [
                row["way"],
                f"{row['first_s']:.2f}",
                f"{row['all_s']:.2f}",
                f"{row['pfs_bytes'] / 1e6:,.1f}",
                f"{row['pfs_ops']:,}",
                f"{row['link_bytes'] / 1e6:,.0f}",
            ]
            for row in rows
        ],
    )


def bounds_of(rows: list[dict[str, Any]]) -> list[Bound]:
    wanted = INPUTS * input_bytes()
    by_way = {way: [row for row in rows if row["way"] == way] for way in WAYS}
    pairs = zip(by_way["vine"], by_way["default"], strict=True)
    return [
        Bound(
            "bytes read from the shared file system, of the inputs'",
            max(row["pfs_bytes"] for row in by_way["vine"]) / wanted,
            SHARE_READ,
        ),
        Bound(
            "last task's end, of that by Parsl's default staging",
            common.median([vine["all_s"] / plain["all_s"] for vine, plain in pairs]),
            1.0,
        ),
    ]


def run() -> dict[str, Any]:
    rows = []
    with common.running_cluster(NODES) as cluster:
        packages = install_packages(cluster)
        paths = make_inputs(cluster)
        for _ in range(common.rounds()):
            rows += [measure(cluster, packages, paths, way) for way in WAYS]
    print(table(rows))
    bytes_each = input_bytes()
    return {"input_bytes": bytes_each, "rounds": rows, "bounds": bounds_of(rows)}


if __name__ == "__main__":
    sys.exit(common.main("tasks", run))
