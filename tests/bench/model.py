"""From the measured points to 256 and 1,024 nodes. Pure, but for the simulator.

README.md states the equations and why. Parameters are taken from the medians of the
measured points; `check` says how well the equations give those points back. On the test
machine all nodes share `cores`; on a real cluster a node has its own, so that only what
the network and the shared file system do grows with the nodes.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from common import PFS_COSTS, REPO, median
from results import Key

EXTENDED = (256, 1024)
TREE_WIDTH = 50  # of slurm.conf in the cluster, and Slurm's own default in 22.05
SIM = REPO / "build/sim"
Points = dict[int, dict[str, float]]  # by nodes
Rows = dict[Key, dict[str, float]]
WAYS = ("direct", "sbcast-untar", "sbcast-mount", "vine-cold", "vine-warm")
Spread = Callable[[int], float]  # receivers -> makespan over S/B


@dataclass(frozen=True)
class Parameters:
    """Seconds, bytes and bytes a second."""

    cores: int  # that all measured nodes share
    link: float  # B
    image: float
    archive: float
    start: float  # srun to the first task's interpreter, nothing to stage
    imports: dict[str, float]  # of each way, on a core of its own
    direct_start: float
    direct_ops: float  # a node
    direct_bytes: float  # a node
    direct_factor: float = (
        1.0  # measured over the bound where the servers are the limit
    )
    untar: float = 0.0  # on a core of its own
    sbcast_copy: float = 1.0  # a copy over a link, in S/B
    sbcast_once: float = 0.0  # reading and answering, whatever the nodes, in S/B
    steps: float = 0.0  # the recipe's steps beside sbcast, untar and import
    mount_steps: float = 0.0
    stage: float = 0.0  # vine-env: beside the distribution, whatever the nodes
    receive: float = (
        0.0  # vine-env: a node's CPU seconds to receive and check the image
    )


def shared(cores: int | None, nodes: int) -> float:
    """How much slower a node computes since others use its core."""
    return max(1.0, nodes / cores) if cores else 1.0


def copies(nodes: int, width: int = TREE_WIDTH) -> int:
    """Copies of a block that cross one link after another until the last node has it.

    sbcast sends to the first of each of up to `width` groups; that one passes it on
    within its group when it has the whole block. One of them is the node it runs on.
    """
    total = -1
    left = nodes
    while left > 0:
        groups = min(left, width)
        total += groups
        left = math.ceil(left / groups) - 1
    return total


def direct_bound(p: Parameters, nodes: int) -> float:
    """Seconds in which the shared file system can do what the nodes ask of it."""
    by_operations = nodes * p.direct_ops / PFS_COSTS["mds_ops"]
    by_bytes = nodes * p.direct_bytes / (PFS_COSTS["bw_mbs"] * 1e6)
    return max(by_operations, by_bytes)


def local(p: Parameters, way: str, nodes: int, cores: int | None) -> float:
    """Seconds of an import from the node's own disk."""
    return p.imports[way] * shared(cores, nodes)


def direct(p: Parameters, nodes: int, cores: int | None) -> float:
    busy = p.direct_factor * direct_bound(p, nodes)
    return p.direct_start + max(p.imports["direct"], busy)


def sbcast(p: Parameters, nodes: int, size: float) -> float:
    return (p.sbcast_copy * copies(nodes) + p.sbcast_once) * size / p.link


def sbcast_untar(p: Parameters, nodes: int, cores: int | None) -> float:
    unpacking = p.untar * shared(cores, nodes)
    sent = sbcast(p, nodes, p.archive)
    return p.steps + sent + unpacking + local(p, "sbcast-untar", nodes, cores)


def sbcast_mount(p: Parameters, nodes: int, cores: int | None) -> float:
    sent = sbcast(p, nodes, p.image)
    return p.mount_steps + sent + local(p, "sbcast-mount", nodes, cores)


def vine_warm(p: Parameters, nodes: int, cores: int | None) -> float:
    return p.start + local(p, "vine-warm", nodes, cores)


def vine_cold(p: Parameters, nodes: int, cores: int | None, spread: Spread) -> float:
    line = spread(nodes - 1) * p.image / p.link
    compute = p.receive * nodes / cores if cores else p.receive
    staged = p.stage + max(line, compute)
    return p.start + staged + local(p, "vine-cold", nodes, cores)


def ways(
    p: Parameters, spread: Spread
) -> dict[str, Callable[[int, int | None], float]]:
    return {
        "direct": lambda n, c: direct(p, n, c),
        "sbcast-untar": lambda n, c: sbcast_untar(p, n, c),
        "sbcast-mount": lambda n, c: sbcast_mount(p, n, c),
        "vine-cold": lambda n, c: vine_cold(p, n, c, spread),
        "vine-warm": lambda n, c: vine_warm(p, n, c),
    }


# --- calibration ----------------------------------------------------------------------


def of_way(rows: Rows, way: str) -> Points:
    """The way's medians by number of nodes, of the whole stack, several nodes."""
    found = {
        n: row for (w, n, load), row in rows.items() if (w, load) == (way, "stack")
    }
    return {n: found[n] for n in sorted(found) if n > 1}


def calibrate(found: dict[str, Any], rows: Rows, spread: Spread) -> Parameters | None:
    """None if one of the ways it needs was not measured."""
    table = {way: of_way(rows, way) for way in WAYS}
    if not all(table.values()):
        return None
    cores = int(found["machine"]["cores"])
    first = {way: points[min(points)] for way, points in table.items()}
    warm, plain = first["vine-warm"], table["direct"]
    p = Parameters(
        cores=cores,
        link=median(found["link_bytes_per_s"]),
        image=found["environment"]["image_bytes"],
        archive=found["environment"]["archive_bytes"],
        start=warm["seconds"] - warm["import_seconds"],
        imports={
            way: first[way]["import_seconds"] / shared(cores, min(points))
            for way, points in table.items()
        },
        direct_start=first["direct"]["seconds_to_first_task"],
        direct_ops=median([row["pfs_ops"] / n for n, row in plain.items()]),
        direct_bytes=median([row["pfs_bytes"] / n for n, row in plain.items()]),
    )
    alone = (
        first["direct"]["seconds"] - p.direct_start
    )  # waits; its core does not matter
    p = replace(p, imports=p.imports | {"direct": alone})
    p = fit_direct(p, plain)
    p = fit_sbcast(p, table["sbcast-untar"], table["sbcast-mount"])
    return fit_vine(p, table["vine-cold"], table["vine-warm"], spread)


def fit_direct(p: Parameters, points: Points) -> Parameters:
    busy = [
        (row["seconds"] - p.direct_start) / direct_bound(p, n)
        for n, row in points.items()
        if direct_bound(p, n) > p.imports["direct"]
    ]
    return replace(p, direct_factor=median(busy) if busy else 1.0)


def fit_sbcast(p: Parameters, recipe: Points, mounted: Points) -> Parameters:
    """A straight line through the times of sbcast, over the copies; then the rest."""
    sent = [
        (float(copies(n)), row["phase_sbcast"] / (size / p.link))
        for points, size in ((recipe, p.archive), (mounted, p.image))
        for n, row in points.items()
    ]
    slope, base = straight(sent)
    least = min(recipe)
    unpacking = recipe[least]["phase_untar"] - recipe[least]["phase_sbcast"]
    p = replace(p, untar=unpacking / shared(p.cores, least))
    p = replace(p, sbcast_copy=slope, sbcast_once=base)

    def left(points: Points, model: Callable[..., float]) -> float:
        over = [row["seconds"] - model(p, n, p.cores) for n, row in points.items()]
        return max(0.0, median(over))

    return replace(
        p, steps=left(recipe, sbcast_untar), mount_steps=left(mounted, sbcast_mount)
    )


def straight(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Slope and base of the line of least squares; one x alone gives no base."""
    if len({x for x, _ in points}) == 1:
        return median([y / x for x, y in points]), 0.0
    line = statistics.linear_regression(*zip(*points, strict=True))
    return line.slope, line.intercept


def fit_vine(p: Parameters, cold: Points, warm: Points, spread: Spread) -> Parameters:
    """What a cold start takes more, by the first and the last number of nodes."""
    staged = {
        n: row["seconds"] - p.start - local(p, "vine-cold", n, p.cores)
        for n, row in cold.items()
    }
    few, many = min(staged), max(staged)
    base = max(0.0, staged[few] - spread(few - 1) * p.image / p.link)
    receive = max(0.0, staged[many] - base) * p.cores / many
    return replace(p, stage=base, receive=receive)


# --- the simulator --------------------------------------------------------------------


def simulated(receivers: int) -> float:
    """Makespan over S/B for one seed and so many receivers at equal links."""
    done = subprocess.run(
        [str(SIM), "--bench", "--json", "--nodes", str(receivers)],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return over_line_rate(done.stdout, receivers)


def over_line_rate(output: str, receivers: int) -> float:
    """The simulator's ratio counts from the optimum (S/B)(1 + floor(log2 N)/k)."""
    (run,) = json.loads(output)
    return float(run["over_optimum"]) * (
        1 + math.floor(math.log2(receivers)) / run["pieces"]
    )


class Simulator:
    """Asks each number of receivers once."""

    def __init__(self, ask: Spread = simulated) -> None:
        self.ask = ask
        self.known: dict[int, float] = {}

    def __call__(self, receivers: int) -> float:
        if receivers not in self.known:
            self.known[receivers] = self.ask(receivers)
        return self.known[receivers]


# --- all ------------------------------------------------------------------------------


def build(found: dict[str, Any], rows: Rows, spread: Spread) -> dict[str, Any] | None:
    """The model's parameters, its check at the measured points, and what it adds."""
    p = calibrate(found, rows, spread)
    if p is None:
        return None
    predict = ways(p, spread)
    check = [
        {
            "way": way,
            "nodes": nodes,
            "measured": round(row["seconds"], 2),
            "modelled": round(predict[way](nodes, p.cores), 2),
        }
        for way in predict
        for nodes, row in of_way(rows, way).items()
    ]
    points = [
        {
            "way": way,
            "nodes": nodes,
            "seconds": round(predict[way](nodes, None), 2),
            "pfs_ops": round(operations(of_way(rows, way), nodes)),
            "simulated": True,
        }
        for way in predict
        for nodes in EXTENDED
    ]
    makespan = {n: round(spread(n - 1), 4) for n in EXTENDED}
    return {
        "parameters": asdict(p),
        "check": check,
        "points": points,
        "simulated_makespan": makespan,
        "break_even": {n: round(break_even(p, n, spread)) for n in EXTENDED},
    }


def operations(points: Points, nodes: int) -> float:
    """Metadata operations, on the line through the fewest and the most nodes."""
    few, many = min(points), max(points)
    base = points[few]["pfs_ops"]
    if few == many:
        return base
    slope = (points[many]["pfs_ops"] - base) / (many - few)
    return max(0.0, base + slope * (nodes - few))


def break_even(p: Parameters, nodes: int, spread: Spread) -> float:
    """Metadata operations a second the file system must do to make direct as fast."""
    seconds = vine_cold(p, nodes, None, spread) - p.direct_start
    return nodes * p.direct_ops / seconds
