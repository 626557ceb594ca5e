"""Lazy start against full start, from job start to the last import done, 8 nodes cold.

The packed environment of the other benchmarks, and one of over 2 GB of which imports
read a small part: the same with packages of which nobody imports anything. Rounds are
interleaved. "first" is the first start of an image ever; before "again" all nodes have
forgotten the image, but the manager knows what its starts read.
"""

from __future__ import annotations

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
    if kind == "first":
        forget_reads(cluster)
    point = startup.Point(NODES, "stack", ())
    sample = startup.measure(cluster, point, way_of(image, start))
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
        samples.append(measure(cluster, image, "full", "cold"))
        samples.append(measure(cluster, image, "lazy", "first"))
        samples.append(measure(cluster, image, "lazy", "again"))
    return samples


def seconds(samples: list[dict[str, Any]], kind: str) -> float:
    return common.median([s["seconds"] for s in samples if s["kind"] == kind])


def bounds_of(name: str, samples: list[dict[str, Any]], limit: float) -> list[Bound]:
    full = seconds(samples, "cold")
    return [
        Bound(f"{name}, {kind} start, over full", seconds(samples, kind) / full, limit)
        for kind in ("first", "again")
    ]


def touched_share(samples: list[dict[str, Any]], size: int) -> float:
    """What a node's imports read of an image before all of it was there."""
    read = [max(s["fuse"]["bytes"]) for s in samples if s["kind"] == "first"]
    return common.median(read) / size


def run() -> dict[str, Any]:
    with common.running_cluster(NODES) as cluster:
        environment = workload.prepare(cluster)
        big_bytes = prepare_big(cluster)
        small = rounds_of(cluster, workload.IMAGE, common.rounds())
        big = [] if common.quick() else rounds_of(cluster, IMAGE_BIG, common.rounds())
    bounds = bounds_of(f"{environment.image_bytes / 1e6:.0f} MB", small, LIMIT)
    if big:
        name = f"{big_bytes / 1e9:.1f} GB"
        bounds += bounds_of(name, big, LIMIT_BIG)
        share = touched_share(big, big_bytes)
        bounds.append(Bound(f"{name}, share that imports read", share, TOUCHED_MAX))
    return {"samples": [*small, *big], "bounds": bounds}


if __name__ == "__main__":
    sys.exit(common.main("lazy", run))
