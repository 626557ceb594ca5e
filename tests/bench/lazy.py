"""Lazy start against full start, from job start to the last import done, 8 nodes cold.

The packed environment of the other benchmarks, and one of over 2 GB of which imports
read a small part: the same with packages of which nobody imports anything. Rounds are
interleaved. "first" is the first start of an image ever; before "again" all nodes have
forgotten the image, but the manager knows what its starts read. "staged" has all of the
image on all nodes before the job starts: what the imports alone take, which no way to
start can pass. Once more with slower links, where these are what a start waits for.

    lazy.py [small] [slow] [big]      only these parts
"""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

import common
import startup
import ways
import workload
from common import Bound, Cluster

NODES = 8
IMAGE_BIG = f"{workload.ENV}-big.sqsh"
BIG_BYTES = 1_950_000_000  # that nobody imports: bytes that do not compress
LIMIT, LIMIT_BIG = 0.75, 0.35
SLOW_RATE = "100mbit"
IMPORTS_MAX = 0.9  # of the allowed time; what is left is for moving what they read
PARTS = ("small", "slow", "big")
USED_MAX_MB = 1000  # on a node's disk, when all is forgotten
TOUCHED_MAX = 0.10

# Two packages, the one before and the one behind what is imported, in path order.
ADD_UNUSED = f"""
import os, pathlib
folder = next(pathlib.Path("{workload.ENV}/lib").glob("python3*/site-packages"))
for name in ("aaa_unused", "zzz_unused"):
    (folder / name).mkdir()
    for number in range(50):
        (folder / name / f"data{{number}}.bin").write_bytes(
            os.urandom({BIG_BYTES} // 100)
        )
"""
REMOVE_UNUSED = f"rm -r {workload.ENV}/lib/python3*/site-packages/*_unused"


def way_of(image: str, start: str) -> ways.Way:
    name = "big-" if image == IMAGE_BIG else ""
    option = f"--vine-start={start} "
    return ways.Way(f"{name}{start}", "", ways.vine(image, option), vine=True)


def prepare_big(cluster: Cluster) -> int:
    """The large image on /pfs, made now or found. Its size."""
    if cluster.run("n1", "test", "-e", IMAGE_BIG, check=False).code != 0:
        cluster.pfs_set(**dict.fromkeys(common.PFS_COSTS, 0))
        cluster.run("n1", "python3", "-c", ADD_UNUSED, user=workload.USER, timeout=120)
        workload.user(cluster, f"vine-env pack {workload.ENV} -o {IMAGE_BIG}")
        workload.user(cluster, REMOVE_UNUSED)
        cluster.pfs_set(**common.PFS_COSTS)
    return int(cluster.run("n1", "stat", "-c", "%s", IMAGE_BIG).out)


def forget_reads(cluster: Cluster) -> None:
    """Nobody knows what starts read: no store, and no manager that was told."""
    startup.forget(cluster)
    cluster.daemon("ctl", "stop")
    cluster.daemon("ctl", "start")

    def connected() -> bool:
        status = [cluster.status(node)["node"] for node in cluster.nodes]
        return all(one["manager_up"] for one in status)

    cluster.wait_for(connected, 30, "the manager's nodes")


def emptied(cluster: Cluster) -> None:
    """Forget all, and wait until the disks have their space back: a file goes with its
    last user, and the mount of a job that has just ended is one."""
    startup.forget(cluster)
    cluster.evict_all()

    def free() -> bool:
        used = [
            cluster.sh(node, "df --output=used -m /local | tail -1")
            for node in cluster.nodes
        ]
        return all(int(one) < USED_MAX_MB for one in used)

    cluster.wait_for(free, 60, "the space of what was forgotten")


def counters(cluster: Cluster) -> dict[str, list[int]]:
    """Of each node's latest lazy mount: what went through FUSE until the end."""
    found: dict[str, list[int]] = {"reads": [], "bytes": [], "waits": []}
    for node in cluster.nodes[:NODES]:
        lines = [
            dict(word.split("=", 1) for word in line.split() if "=" in word)
            for line in cluster.log(node).splitlines()
            if "event=handover" in line or "event=lazy-left" in line
        ]
        for key in found:
            found[key].append(int(lines[-1].get(key, "0")) if lines else 0)
    return found


def measure(cluster: Cluster, image: str, start: str, kind: str) -> dict[str, Any]:
    way = way_of(image, start)
    emptied(cluster)
    if kind == "first":
        forget_reads(cluster)
    if kind == "staged":
        workload.user(cluster, f"vine-env stage {image} --nodes n[1-{NODES}]")
        way = dataclasses.replace(way, after="stage")
    point = startup.Point(NODES, "stack", ())
    sample = startup.measure(cluster, point, way)
    if start == "lazy":
        cluster.settle(60)
        sample |= {"fuse": counters(cluster)}
    sample |= {"kind": kind}
    first = sample["seconds_to_first_task"]
    print(
        f"{sample['way']:9} {kind:6} {sample['seconds']:7.2f} s, first task after"
        f" {first:6.2f} s {json.dumps(sample.get('fuse', {}))}",
        flush=True,
    )
    return sample


def rounds_of(cluster: Cluster, image: str, count: int) -> list[dict[str, Any]]:
    samples = []
    for _ in range(count):
        if image == workload.IMAGE:
            samples.append(measure(cluster, image, "full", "staged"))
        samples.append(measure(cluster, image, "full", "cold"))
        samples.append(measure(cluster, image, "lazy", "first"))
        samples.append(measure(cluster, image, "lazy", "again"))
    return samples


def seconds(samples: list[dict[str, Any]], kind: str) -> float:
    return common.median([s["seconds"] for s in samples if s["kind"] == kind])


def bounds_of(
    name: str, samples: list[dict[str, Any]], limit: float, beside: str = ""
) -> list[Bound]:
    full = seconds(samples, "cold")
    return [
        Bound(
            f"{name}, {kind} start, over full",
            seconds(samples, kind) / full,
            limit,
            beside=beside,
        )
        for kind in ("first", "again")
    ]


def touched_share(samples: list[dict[str, Any]], size: int) -> float:
    """What a node's imports read of an image before all of it was there."""
    read = [max(s["fuse"]["bytes"]) for s in samples if s["kind"] == "first"]
    return common.median(read) / size


def small_bounds(cluster: Cluster, samples: list[dict[str, Any]]) -> list[Bound]:
    size = workload.prepare(cluster).image_bytes
    name = f"{size / 1e6:.0f} MB"
    return bounds_of(name, samples, LIMIT, beside=imports_fill(samples))


def imports_fill(samples: list[dict[str, Any]]) -> str:
    """Why the start is not what is measured here; nothing, if it is.

    Nodes that share cores import as many times slower as they are more, while links
    are each node's own: then the imports alone fill the allowed time."""
    floor = seconds(samples, "staged") / seconds(samples, "cold")
    return f"imports alone {floor:.2f}" if floor > IMPORTS_MAX * LIMIT else ""


def slow_rounds(cluster: Cluster) -> list[dict[str, Any]]:
    for node in cluster.nodes:
        cluster.shape(node, SLOW_RATE)
    try:
        return rounds_of(cluster, workload.IMAGE, common.rounds())
    finally:
        for node in cluster.nodes:
            cluster.shape(node, cluster.default_rate)


def big_bounds(cluster: Cluster, samples: list[dict[str, Any]]) -> list[Bound]:
    size = prepare_big(cluster)
    name = f"{size / 1e9:.1f} GB"
    share = touched_share(samples, size)
    return [
        *bounds_of(name, samples, LIMIT_BIG),
        Bound(f"{name}, share that imports read", share, TOUCHED_MAX),
    ]


def run(parts: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"samples": [], "bounds": []}
    with common.running_cluster(NODES) as cluster:
        workload.prepare(cluster)
        if "small" in parts:
            small = rounds_of(cluster, workload.IMAGE, common.rounds())
            found["samples"] += small
            found["bounds"] += small_bounds(cluster, small)
        if "slow" in parts:
            slow = slow_rounds(cluster)
            found["samples"] += [one | {"rate": SLOW_RATE} for one in slow]
            found["bounds"] += bounds_of(f"at {SLOW_RATE}", slow, LIMIT)
        if "big" in parts:
            prepare_big(cluster)
            big = rounds_of(cluster, IMAGE_BIG, common.rounds())
            found["samples"] += big
            found["bounds"] += big_bounds(cluster, big)
    return found


if __name__ == "__main__":
    chosen = sys.argv[1:] or [p for p in PARTS if p != "big" or not common.quick()]
    sys.exit(common.main("lazy", lambda: run(chosen)))
