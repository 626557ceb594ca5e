"""A warm start: what the option adds to srun when the image is there already.

`srun true` with and without --vine-env, in turn, on 1 and on 8 nodes: how long srun
takes, and how long until the first task's first instruction. The image is packed, was
used before, and the shared file system has its usual costs. Then 64 steps at once on
one node, beside 64 without the option.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import common
from cluster import Cluster
from common import Bound, median
from environments import make_environment, make_image

LIMIT_MS = 50.0
USER = "vine1"
STEPS = 64

# Runs in the node, so that nothing but srun is in the times. CLOCK_REALTIME: the task
# that tells when it began is another process, on 8 nodes on the same kernel.
LOOP = """
import json, subprocess, sys, time

rounds, nodes, option = int(sys.argv[1]), sys.argv[2], sys.argv[3]
ways = [("without", []), ("with", [option])]
found = {name: {"whole": [], "first": []} for name, _ in ways}
for i in range(rounds):
    for name, words in ways if i % 2 else reversed(ways):
        while True:  # the job before has left the nodes
            said = subprocess.run(
                ["sinfo", "-h", "-t", "idle", "-o", "%D"], stdout=subprocess.PIPE
            ).stdout.split()
            if said and int(said[0]) >= int(sys.argv[4]):
                break
        begun = time.time()
        out = subprocess.run(
            ["srun", "-N", nodes, *words, "/bin/date", "+%s.%N"],
            check=True, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
        ).stdout
        found[name]["whole"].append(time.time() - begun)
        found[name]["first"].append(max(map(float, out.split())) - begun)
print(json.dumps(found))
"""

# All steps of one job at once, on one node; seconds until the last has ended.
STEPS_LOOP = """
import subprocess, sys, time

steps, words = int(sys.argv[1]), sys.argv[2:]
begun = time.time()
each = ["srun", "--overlap", "-N1", "-n1", "--mem=0", *words, "true"]
running = [subprocess.Popen(each, stdin=subprocess.DEVNULL) for _ in range(steps)]
assert not any(p.wait() for p in running)
print(time.time() - begun)
"""


def rounds() -> int:
    return 5 if common.quick() else 25


@contextmanager
def warm_image(cluster: Cluster) -> Iterator[str]:
    """An option whose image all nodes have and have used."""
    env = make_environment(cluster, ballast_bytes=40 << 20)
    image, _ = make_image(cluster, env)
    option = f"--vine-env={image}"
    for _ in range(2):
        cluster.srun("-N8", option, "true")
    try:
        yield option
    finally:
        cluster.sh("n1", f"rm -rf {env.path} {image}", user=USER)


def compare(cluster: Cluster, nodes: int, option: str) -> dict[str, Any]:
    words = ["python3", "-c", LOOP, str(rounds()), str(nodes), option]
    said = cluster.run(
        "n1", *words, str(len(cluster.nodes)), user=USER, timeout=300
    ).out
    found = json.loads(said)
    more = {
        what: 1000 * (median(found["with"][what]) - median(found["without"][what]))
        for what in ("whole", "first")
    }
    return {"nodes": nodes, "seconds": found, "more_ms": more}


def at_once(cluster: Cluster, option: str) -> dict[str, float]:
    def seconds(*words: str) -> float:
        inner = ["python3", "-c", STEPS_LOOP, str(STEPS), *words]
        return float(
            cluster.srun("-N1", "-w", "n2", "--mem=0", "-n1", *inner, timeout=200).out
        )

    return {"without": seconds(), "with": seconds(option)}


def run() -> dict[str, Any]:
    with common.running_cluster(8) as cluster, warm_image(cluster) as option:
        before = cluster.pfs_counters()
        runs = [compare(cluster, nodes, option) for nodes in (1, 8)]
        after = cluster.pfs_counters()
        steps = at_once(cluster, option)
    bounds = [
        Bound(f"{label}, {r['nodes']} nodes: more than without", ms, LIMIT_MS, "ms")
        for r in runs
        for label, ms in (
            ("srun", r["more_ms"]["whole"]),
            ("last task's first instruction", r["more_ms"]["first"]),
        )
    ]
    read = float(after["bytes_read"] - before["bytes_read"])
    bounds.append(Bound("read from the shared file system", read, 0, "bytes"))
    ratio = steps["with"] / steps["without"]
    bounds.append(Bound(f"{STEPS} steps at once: times those without", ratio, 1.5))
    rows = [
        [str(r["nodes"]), what]
        + [
            f"{1000 * median(r['seconds'][way][what]):.1f}"
            for way in ("without", "with")
        ]
        for r in runs
        for what in ("whole", "first")
    ]
    print(common.markdown(["nodes", "what", "ms without", "ms with"], rows))
    return {"runs": runs, "steps": steps, "rounds": rounds(), "bounds": bounds}


if __name__ == "__main__":
    sys.exit(common.main("warm", run))
