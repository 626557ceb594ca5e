"""From job start to the last import done, by every way, side by side.

Rounds are interleaved: each goes through all ways before the next begins, so that what
disturbs the machine disturbs all. Samples are added to build/bench/results.json with
--merge, else it begins anew. README.md says what is measured and how.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import common
import memory
import model
import plot
import results
import tables
import workload
from common import Bound, Cluster
from ways import ALONE, BY_NAME, WAYS, Way

RUN_TIMEOUT_S = 300
# A way that took so long in so many rounds has shown what it is.
SLOW_SECONDS = 75
SLOW_ROUNDS = 2
# (nodes, workload): where vine-env can hardly pay, measured as well.
SMALL_POINTS = ((1, "stack"), (1, "json"), (8, "json"))


@dataclass(frozen=True)
class Point:
    nodes: int
    workload: str
    ways: tuple[Way, ...]


# --- one measurement ------------------------------------------------------------------


def forget(cluster: Cluster) -> None:
    """Empty the nodes' stores; a job that is gone may hold its lease a moment."""

    def forgotten() -> bool:
        answers = [
            cluster.run(node, "vine-env", "evict", "--all", "--json").out
            for node in cluster.nodes
        ]
        return not any(json.loads(answer)["kept_leased"] for answer in answers)

    cluster.wait_for(forgotten, 30, "stores that are empty")


def tidy(cluster: Cluster, nodes: Iterable[str]) -> None:
    """Remove what a way without vine-env left on the nodes' disks."""
    local = workload.LOCAL
    script = f"umount {local}/ml 2>/dev/null; rm -rf {local}/*; fstrim /local; true"
    running = [cluster.popen(node, "bash", "-c", script) for node in nodes]
    for one in running:
        one.wait(120)
        cluster.background.remove(one)


def counters(cluster: Cluster) -> dict[str, int]:
    """All that counts up, since the cluster is there."""
    pfs = cluster.pfs_counters()
    status = [cluster.status(node)["node"] for node in cluster.nodes]
    return {
        "pfs_ops": pfs["meta_ops"],
        "pfs_bytes": pfs["bytes_read"] + pfs["bytes_written"],
        "peer_bytes": sum(one["bytes_peer"] for one in status),
        "link_bytes": common.received_bytes(cluster),
    }


def times(output: str, nodes: int) -> dict[str, Any]:
    """From what a way's script printed. See ways.py for its lines."""
    phases: dict[str, float] = {}
    tasks = []
    for line in output.splitlines():
        if line.startswith("phase "):
            _, name, when = line.split()
            phases[name] = float(when)
        else:
            tasks.append(json.loads(line))
    if len({task["node"] for task in tasks}) != nodes:
        raise common.BenchError(f"{len(tasks)} tasks of {nodes} imported:\n{output}")
    start = phases.pop("start")
    ended = max(task["ended"] for task in tasks)
    spent = [task["ended"] - task["began"] for task in tasks]
    return {
        "seconds": round(ended - start, 3),
        "seconds_to_first_task": round(min(t["began"] for t in tasks) - start, 3),
        "seconds_to_last_task": round(max(t["began"] for t in tasks) - start, 3),
        "import_seconds": round(common.median(spent), 3),
        "phases": {name: round(when - start, 3) for name, when in phases.items()},
    }


def measure(cluster: Cluster, point: Point, way: Way) -> dict[str, Any]:
    """One way once, on idle nodes with cold clients of the shared file system."""
    if why := cluster.settle(60):
        raise common.BenchError(f"the cluster is not idle: {why}")
    if way.after is None:
        forget(cluster)
    cluster.pfs_drop_caches()
    os.sync()  # what earlier ways left is not this one's to write
    memory.touch()
    before, busy = counters(cluster), common.busy_seconds()
    output = cluster.sh(
        "n1",
        way.script(point.nodes, point.workload),
        user=way.user,
        env=workload.TASK_ENVIRONMENT,
        timeout=RUN_TIMEOUT_S,
    )
    sample = {"way": way.name, "nodes": point.nodes, "workload": point.workload}
    sample |= times(output, point.nodes)
    sample["busy_seconds"] = round(common.busy_seconds() - busy, 2)
    after = counters(cluster)
    sample |= {name: after[name] - before[name] for name in before}
    if not way.vine:
        tidy(cluster, cluster.nodes[: point.nodes])
    return sample


# --- rounds ---------------------------------------------------------------------------


def usable(cluster: Cluster) -> list[Way]:
    """All ways, without those that this build has no option for."""
    options = cluster.run("n1", "srun", "--help").out
    return [w for w in WAYS if w.name != "vine-lazy" or "--vine-start" in options]


def plan(ways: list[Way], nodes: list[int], names: list[str]) -> list[Point]:
    """What a round measures; a way brings those along whose leavings it needs."""
    wanted = set(names)
    for way in reversed(ways):
        if way.name in wanted and way.after:
            wanted.add(way.after)
    chosen = [way for way in ways if way.name in wanted]
    points = [Point(n, "stack", tuple(chosen)) for n in nodes if n > 1]
    small = tuple(way for way in chosen if way.name in ALONE)
    for count, name in SMALL_POINTS:
        if count in nodes:
            points.append(Point(count, name, small))
    return points


def say(sample: dict[str, Any]) -> None:
    moved = sample["peer_bytes"] or sample["link_bytes"]
    print(
        f"{sample['nodes']:3} nodes {sample['workload']:5} {sample['way']:14}"
        f" {sample['seconds']:7.2f} s  /pfs {sample['pfs_ops']:7,} ops"
        f" {sample['pfs_bytes'] / 1e6:8.1f} MB  nodes {moved / 1e6:8.1f} MB",
        flush=True,
    )


# --- bounds ---------------------------------------------------------------------------


def bounds(found: dict[str, Any]) -> list[Bound]:
    """Those of a job's start, as far as their points were measured."""
    middle = results.medians(found["samples"])
    return [*start_bounds(middle), *file_system_bounds(middle, found["environment"])]


def start_bounds(middle: model.Rows) -> list[Bound]:
    checks = []
    cold = middle.get(("vine-cold", 8, "stack"))
    for other, share in (("direct", 0.5), ("sbcast-untar", 0.2)):
        row = middle.get((other, 8, "stack"))
        if cold and row:
            name = f"8 nodes, packed image cold, seconds over {other}"
            ratio = cold["seconds"] / row["seconds"]
            short = cores_short(cold, share * row["seconds"])
            checks.append(Bound(name, ratio, share, "x", beside=short))
    return checks


def cores_short(row: dict[str, float], allowed_s: float) -> str:
    """Why the cores that all nodes share are what is measured; nothing, if they are
    not. Slower links would not help: imports are most of the work."""
    return common.cores_short([row["busy_seconds"] / (allowed_s * common.cores())])


def file_system_bounds(middle: model.Rows, size: dict[str, Any]) -> list[Bound]:
    """Bytes read once, and few operations, whatever the number of nodes."""
    checks = []
    for way, source in (("vine-cold", "image_bytes"), ("vine-dir-cold", "bytes")):
        read = {n: row["pfs_bytes"] for n, row in model.of_way(middle, way).items()}
        what = f"{way}, shared file system bytes"
        for nodes, count in read.items():
            name = f"{what} over the source's, {nodes} nodes"
            checks.append(Bound(name, count / size[source], 1.02, "x"))
        if len(read) > 1:
            few, many = min(read), max(read)
            name = f"{what}, {many} nodes over {few}"
            checks.append(Bound(name, read[many] / read[few], 1.02, "x"))
    for nodes, row in model.of_way(middle, "vine-dir-cold").items():
        name = f"vine-dir-cold, metadata operations a file, {nodes} nodes"
        checks.append(Bound(name, row["pfs_ops"] / size["files"], 2.5))
    return checks


# --- command line ---------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--nodes", type=int, nargs="+", default=[1, *common.node_counts()]
    )
    parser.add_argument(
        "--rounds", type=int, default=common.rounds(), help="samples of each point"
    )
    parser.add_argument("--once", action="store_true", help="one round, then end")
    parser.add_argument(
        "--ways", nargs="+", default=list(BY_NAME), choices=list(BY_NAME), metavar="WAY"
    )
    parser.add_argument(
        "--merge", action="store_true", help="add to the results there are"
    )
    parser.add_argument(
        "--prepare", action="store_true", help="make the environment, measure nothing"
    )
    return parser.parse_args()


def run(options: argparse.Namespace) -> dict[str, Any]:
    with common.running_cluster(max([*options.nodes, 2])) as cluster:
        environment = workload.prepare(cluster)
        if options.prepare:
            return results.load() | {"bounds": []}
        points = plan(usable(cluster), options.nodes, options.ways)
        found = results.load() if options.merge else results.empty()
        found |= {"environment": vars(environment), "machine": common.machine()}
        while take_round(cluster, points, found, options.rounds):
            if options.once:
                break
    return finish(found)


def take_round(
    cluster: Cluster, points: list[Point], found: dict[str, Any], rounds: int
) -> bool:
    """Each way once that has not enough samples. False: none was left."""
    todo = {point: still_wanted(point, found["samples"], rounds) for point in points}
    if not any(todo.values()):
        return False
    found["link_bytes_per_s"].append(common.link_bytes_per_s(cluster))
    for point, ways in todo.items():
        for way in ways:
            sample = measure(cluster, point, way)
            say(sample)
            found["samples"].append(sample)
        common.write_json("results", found)  # kept, whatever comes next
    return True


def still_wanted(point: Point, samples: list[dict[str, Any]], rounds: int) -> list[Way]:
    """Ways without enough samples: a slow one is measured twice, not `rounds` times."""
    taken: dict[str, list[float]] = {way.name: [] for way in point.ways}
    for sample in samples:
        here = sample["nodes"] == point.nodes and sample["workload"] == point.workload
        if here and sample["way"] in taken:
            taken[sample["way"]].append(sample["seconds"])

    def enough(seconds: list[float]) -> bool:
        slow = len(seconds) >= SLOW_ROUNDS and sum(seconds) > SLOW_SECONDS
        return slow or len(seconds) >= rounds

    wanted = {way.name for way in point.ways if not enough(taken[way.name])}
    for way in reversed(point.ways):
        if way.name in wanted and way.after:
            wanted.add(way.after)
    return [way for way in point.ways if way.name in wanted]


def finish(found: dict[str, Any]) -> dict[str, Any]:
    """What follows from the samples: bounds, model, table, picture."""
    found["bounds"] = bounds(found)
    middle = results.medians(found["samples"])
    found["model"] = model.build(found, middle, model.Simulator())
    text = tables.document(found)
    (common.OUTPUT / "table.md").write_text(text)
    plot.draw(found, common.OUTPUT / "bench.png")
    print(f"\n{text}")
    return found


if __name__ == "__main__":
    chosen = arguments()
    sys.exit(common.main("results", lambda: run(chosen)))
