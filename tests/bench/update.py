"""A new version of an environment to 8 nodes that have the one before, against cold.

Three changes to a directory, one on top of the other: a package of 8 MB is added; then
a line is added to 200 files of one package; then to 200 files all over the tree. And a
packed image, after the package was added. Each version is staged where the one before
is, and once more where nothing is. The shared file system costs nothing here: what it
costs is the same for both. Once more with slower links: the nodes share this machine's
cores, so that each has a part of one for what a node of its own has several for.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import common
import memory
import workload
from common import Bound, Cluster

NODES = 8
EDITED = 200
BYTES_MAX, TIME_MAX = 0.05, 0.25
SLOW_RATE = "100mbit"
RATES = (common.RATE, SLOW_RATE)
KEPT = f"{workload.HOME}/before-edits.tar"
CHANGES = {
    "package": "a package of 8 MB added",
    "files": f"{EDITED} files of one package changed",
    "spread": f"{EDITED} files all over the tree changed",
}
PACKED = "packed"
NAMES = {**CHANGES, PACKED: "packed image with the package added"}

# A line at the end of every so many .py files, those of one package or of all others.
EDIT = """
import pathlib, sys
env, count, inside = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1"
site = next(pathlib.Path(env, "lib").glob("python3*/site-packages"))
found = sorted(p for p in site.rglob("*.py") if p.stat().st_size > 0)
found = [p for p in found if ((site / "pandas") in p.parents) == inside]
for number in range(count):
    with open(found[number * len(found) // count], "a") as file:
        file.write(f"# changed {number}\\n")
"""


def reset(cluster: Cluster) -> None:
    """The environment as it was made, times included."""
    workload.prepare(cluster)
    cluster.pfs_set(**dict.fromkeys(common.PFS_COSTS, 0))
    site = f"{workload.ENV}/lib/python3*/site-packages"
    keep = (
        f"find {workload.ENV}/lib -name '*.py' | tar -P --format=posix -cf {KEPT} -T -"
    )
    back = f"rm -rf {site}/{workload.ADDED}; tar -P -xpf {KEPT}"
    workload.user(cluster, f"if test -e {KEPT}; then {back}; else {keep}; fi")


def change_tree(cluster: Cluster, change: str) -> None:
    script = workload.ADD_PACKAGE if change == "package" else EDIT
    words = [workload.ENV, str(EDITED), "1" if change == "files" else "0"]
    cluster.run("n1", "python3", "-c", script, *words, user=workload.USER)


def forget(cluster: Cluster) -> None:
    for node in cluster.nodes:
        cluster.run(node, "vine-env", "evict", "--all")


def settle(cluster: Cluster) -> None:
    """Nothing of what was before is still being written."""
    cluster.settle(60)
    cluster.run("n1", "sync", timeout=120)
    cluster.pfs_drop_caches()
    memory.touch()


def stage(cluster: Cluster, source: str = workload.ENV) -> float:
    names = ",".join(cluster.nodes[:NODES])
    begin = time.monotonic()
    words = ["vine-env", "stage", source, "--nodes", names]
    cluster.run("n1", *words, user=workload.USER, timeout=300)
    return time.monotonic() - begin


def moved(cluster: Cluster) -> list[int]:
    """Bytes that each node has got over its link so far."""
    return [common.received_bytes(cluster, [node]) for node in cluster.nodes[:NODES]]


def measure(
    cluster: Cluster, rate: str, change: str, source: str = workload.ENV
) -> dict[str, Any]:
    """All nodes have the version before; afterwards the new one."""
    nodes = cluster.nodes[:NODES]
    settle(cluster)
    known = {o["digest"] for o in cluster.status("n1")["objects"]}
    before, busy = moved(cluster), common.busy_seconds()
    update = stage(cluster, source)
    after, busy = moved(cluster), common.busy_seconds() - busy
    objects = [
        next(o for o in cluster.status(n)["objects"] if o["digest"] not in known)
        for n in nodes
    ]
    forget(cluster)
    settle(cluster)
    cold = stage(cluster, source)
    size = objects[0]["size"]
    bytes_moved = [b - a for a, b in zip(before, after, strict=True)]
    print(
        f"{rate} {change:8} cold {cold:6.2f} s, update {update:6.2f} s,"
        f" moved {100 * max(bytes_moved) / size:5.2f} %",
        flush=True,
    )
    return {
        "rate": rate,
        "change": change,
        "image_bytes": size,
        "cold_seconds": cold,
        "update_seconds": update,
        "update_busy_seconds": busy,  # of all cores, everything that ran
        "bytes_moved": bytes_moved,
        "bytes_reused": [o["bytes_reused"] for o in objects],
    }


def cores_short(samples: list[dict[str, Any]]) -> str:
    """Why the time of updates is not what is measured here; nothing, if it is."""
    return common.cores_short(
        [
            s["update_busy_seconds"] / (TIME_MAX * s["cold_seconds"] * common.cores())
            for s in samples
        ]
    )


def bounds_of(samples: list[dict[str, Any]], rate: str, change: str) -> list[Bound]:
    mine = [s for s in samples if s["change"] == change and s["rate"] == rate]
    share = common.median([max(s["bytes_moved"]) / s["image_bytes"] for s in mine])
    ratio = common.median([s["update_seconds"] / s["cold_seconds"] for s in mine])
    what = f"{NAMES[change]}, {rate}"
    short = cores_short(mine) if rate != SLOW_RATE else ""
    return [
        Bound(f"{what}: bytes to a node over the image's", share, BYTES_MAX),
        Bound(f"{what}: seconds over cold", ratio, TIME_MAX, beside=short),
    ]


def round_of(cluster: Cluster, rate: str) -> list[dict[str, Any]]:
    reset(cluster)
    forget(cluster)
    for node in cluster.nodes:
        cluster.shape(node, rate)
    stage(cluster)
    samples = []
    for change in CHANGES:
        change_tree(cluster, change)
        samples.append(measure(cluster, rate, change))
    forget(cluster)
    stage(cluster, workload.IMAGE)
    return [*samples, measure(cluster, rate, PACKED, workload.IMAGE_NEXT)]


def run() -> dict[str, Any]:
    samples = []
    with common.running_cluster(NODES, pfs={}) as cluster:
        for _ in range(common.rounds()):
            for rate in RATES:
                samples += round_of(cluster, rate)
        reset(cluster)
    bounds = [
        bound
        for rate in RATES
        for change in NAMES
        for bound in bounds_of(samples, rate, change)
    ]
    return {"samples": samples, "bounds": bounds}


if __name__ == "__main__":
    sys.exit(common.main("update", run))
