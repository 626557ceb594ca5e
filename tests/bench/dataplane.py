"""The data plane: how near the links' and the processor's limits an image moves.

Three questions, each answered side by side in one run, medians of common.rounds():

- shaped: seconds of `vine-env stage --nodes all` for a 200 MiB packed image to 8 and 16
  cold nodes, over S/B; B is what iperf3 carries on the same links. Also on slower
  links: there the links are the limit, and not the cores that all nodes share.
- unshaped: the same on 8 nodes without link limits, against Slurm's sbcast of the very
  same file. All nodes share this machine's cores: they are the limit.
- processor: what a receiving node's daemon spends a GB received, verified, stored and
  synced, against `openssl dgst -sha256` and `cp` of the same file on the same disk.

The shared file system costs nothing here: what is measured is what lies behind it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import common
import memory
from cluster import Cluster
from common import Bound, median

FREE = {"lat_us": 0, "mds_ops": 0, "bw_mbs": 0, "client_mbs": 0}
USER = "vine1"
FOLDER = f"/pfs/home/{USER}/dataplane"
IMAGE = f"{FOLDER}.sqsh"
SHAPED_LIMITS = {8: 1.10, 16: 1.15}  # times S/B
SBCAST_FACTOR = 3.0
CPU_FACTOR = 1.3
PARTS = ("8", "8@100mbit", "16", "16@100mbit", "unshaped", "cpu")
MIB = 1 << 20
GB = 1e9


def image_bytes() -> int:
    return 200 * MIB


def large_bytes() -> int:
    return (200 if common.quick() else 1000) * 1_000_000


@contextmanager
def packed(cluster: Cluster, size: int) -> Iterator[int]:
    """A packed image of random bytes at IMAGE; its size."""
    make = f"mkdir -p {FOLDER} && head -c {size} /dev/urandom > {FOLDER}/blob"
    pack = f"vine-env pack {FOLDER} -o {IMAGE} --force"
    cluster.sh("n1", f"{make} && {pack}", user=USER, timeout=240)
    try:
        yield int(cluster.sh("n1", f"stat -c %s {IMAGE}", user=USER))
    finally:
        cluster.sh("n1", f"rm -rf {FOLDER} {IMAGE}", user=USER)


def stage(cluster: Cluster, nodes: str = "all") -> float:
    memory.touch()
    begun = time.monotonic()
    command = ["vine-env", "stage", IMAGE, "--nodes", nodes]
    cluster.run("n1", *command, user=USER, timeout=120)
    return time.monotonic() - begun


def forget(cluster: Cluster) -> None:
    cluster.evict_all()
    cluster.pfs_drop_caches()
    os.sync()  # what earlier rounds left is not this one's to write


# --- shaped links ---------------------------------------------------------------------


def shaped(nodes: int, rate: str) -> dict[str, Any]:
    """S/B and the seconds to all nodes at once, round by round."""
    with (
        common.running_cluster(nodes, rate, FREE) as cluster,
        packed(cluster, image_bytes()) as size,
    ):
        seconds, links, busy = [], [], []
        for _ in range(common.rounds()):
            forget(cluster)
            links.append(common.link_bytes_per_s(cluster))
            before = common.busy_seconds()
            seconds.append(stage(cluster))
            busy.append(common.busy_seconds() - before)
    link = median(links)
    return {
        "nodes": nodes,
        "rate": rate,
        "bytes": size,
        "link_bytes_per_s": link,
        "seconds": seconds,
        "busy_seconds": busy,  # of all cores, everything that ran
        "cores": common.cores(),
        "ideal_seconds": size / link,
        "ratio": median(seconds) / (size / link),
    }


def shaped_bound(result: dict[str, Any]) -> Bound:
    nodes = result["nodes"]
    size, rate = result["bytes"] >> 20, result["rate"]
    name = f"{nodes} cold nodes, {size} MiB, links of {rate}: time over S/B"
    limit = SHAPED_LIMITS[nodes]
    return Bound(name, result["ratio"], limit, beside=cores_short(result, limit))


def cores_short(result: dict[str, Any], limit: float) -> str:
    """Why the links are not what is measured here; nothing, if they are.

    Slower links show what the schedule is worth, "cpu" bounds the work itself: waste is
    not excused."""
    allowed = limit * result["ideal_seconds"] * result["cores"]
    return common.cores_short([busy / allowed for busy in result["busy_seconds"]])


# --- no link limits -------------------------------------------------------------------


def sbcast(cluster: Cluster, nodes: int) -> float:
    """Seconds of sbcast alone, inside an allocation; to the disk we write to, too."""
    target = "/local/bench/sbcast"
    for node in cluster.nodes:
        cluster.sh(node, "rm -rf /local/bench && mkdir -m 1777 /local/bench")
    timed = f"t=$(date +%s.%N); sbcast {IMAGE} {target}; echo $t $(date +%s.%N)"
    memory.touch()
    words = ["salloc", "-Q", f"-N{nodes}", "bash", "-ec", timed]
    begun, ended = cluster.run("n1", *words, user=USER, timeout=180).out.split()
    for node in cluster.nodes:
        cluster.sh(node, "rm -rf /local/bench")
    return float(ended) - float(begun)


def unshaped(nodes: int = 8) -> dict[str, Any]:
    with (
        common.running_cluster(nodes, rate="off", pfs=FREE) as cluster,
        packed(cluster, image_bytes()) as size,
    ):
        ours, theirs = [], []
        for _ in range(common.rounds()):
            forget(cluster)
            ours.append(stage(cluster))
            forget(cluster)
            theirs.append(sbcast(cluster, nodes))
    return {
        "nodes": nodes,
        "bytes": size,
        "seconds": ours,
        "sbcast_seconds": theirs,
        "bytes_per_s_to_all": nodes * size / median(ours),
        "factor": median(theirs) / median(ours),
    }


# --- the processor --------------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """User and system time, all threads and the children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def wait_synced(cluster: Cluster, node: str) -> None:
    """The daemon has written the object to the disk and noted it."""
    objects = cluster.root(node) / "local/vine/objects"

    def synced() -> bool:
        metas = list(objects.glob("*/meta.json"))
        return bool(metas) and all('"synced":true' in m.read_text() for m in metas)

    cluster.wait_for(synced, 60, "the object to be synced")


def plain_cpu(
    cluster: Cluster, node: str, command: str, output: str = "/dev/null"
) -> float:
    timed = f"TIMEFORMAT='%U %S'; time {command} > {output}"
    words = cluster.run(node, "bash", "-c", timed, timeout=120).err.split()
    return float(words[-2]) + float(words[-1])


def processor_round(cluster: Cluster, size: int) -> dict[str, float]:
    """One node receives what another holds; then openssl and cp do their part."""
    receiver, folder = "n2", "/local/vine/objects"
    forget(cluster)
    stage(cluster, "n1")
    pid = common.daemon_pid(cluster, receiver, "vined")
    before = cpu_seconds(pid)
    seconds = stage(cluster, receiver)
    staged = cpu_seconds(pid) - before
    wait_synced(cluster, receiver)
    synced = cpu_seconds(pid) - before
    digest = plain_cpu(cluster, receiver, f"openssl dgst -sha256 {folder}/*/image")
    copy = plain_cpu(cluster, receiver, f"cp {folder}/*/image /local/copy")
    cluster.sh(receiver, "rm /local/copy")
    # cp has the kernel copy; cat reads and writes, as a program that looks would.
    cat = plain_cpu(cluster, receiver, f"cat {folder}/*/image", "/local/copy")
    cluster.sh(receiver, "rm /local/copy")
    per_gb = {"staged": staged, "synced": synced, "openssl": digest, "cp": copy}
    per_gb["cat"] = cat
    return {"seconds": seconds, **{k: v * GB / size for k, v in per_gb.items()}}


def processor() -> dict[str, Any]:
    with (
        common.running_cluster(2, rate="off", pfs=FREE) as cluster,
        packed(cluster, large_bytes()) as size,
    ):
        found = [processor_round(cluster, size) for _ in range(common.rounds())]
    result: dict[str, Any] = {key: median([r[key] for r in found]) for key in found[0]}
    plain = median([r["openssl"] + r["cp"] for r in found])
    return {
        "bytes": size,
        **result,
        "rounds": found,
        "factor": result["synced"] / plain,
    }


# --- all of it ------------------------------------------------------------------------


def table(result: dict[str, Any]) -> str:
    """What lies behind the bounds."""
    rows = []
    for one in result["shaped"]:
        link = f"B {one['link_bytes_per_s'] * 8 / 1e6:.0f} Mbit/s"
        what = f"{one['nodes']} nodes, shaped ({link})"
        ideal = f"S/B {one['ideal_seconds']:.2f} s"
        rows.append([what, f"{median(one['seconds']):.2f} s", ideal])
    if one := result.get("unshaped"):
        beside = f"sbcast {median(one['sbcast_seconds']):.2f} s"
        what = f"{one['nodes']} nodes, no link limits"
        rows.append([what, f"{median(one['seconds']):.2f} s", beside])
    if one := result.get("processor"):
        plain = f"openssl {one['openssl']:.2f} s + cp {one['cp']:.2f} s"
        plain += f" (cat {one['cat']:.2f} s)"
        rows.append(["processor a GB, until staged", f"{one['staged']:.2f} s", plain])
        rows.append(["processor a GB, until synced", f"{one['synced']:.2f} s", plain])
    return common.markdown(["what", "vine-env", "beside it"], rows)


def run(parts: tuple[str, ...] = PARTS) -> dict[str, Any]:
    """Measure. Keys: "shaped" (a list, by number of nodes), "unshaped", "processor",
    each with its figures in seconds and bytes, all rounds kept; and "bounds"."""
    result: dict[str, Any] = {"shaped": [], "bounds": []}
    for part in parts:
        if part[0].isdigit():
            nodes, _, rate = part.partition("@")
            result["shaped"].append(one := shaped(int(nodes), rate or common.RATE))
            result["bounds"].append(shaped_bound(one))
        elif part == "unshaped":
            result["unshaped"] = one = unshaped()
            name = f"{one['nodes']} nodes, no link limits: times sbcast's rate"
            bound = Bound(name, one["factor"], SBCAST_FACTOR, at_least=True)
            result["bounds"].append(bound)
        else:
            result["processor"] = one = processor()
            name = "processor time of a receiver over openssl + cp"
            result["bounds"].append(Bound(name, one["factor"], CPU_FACTOR))
    print(table(result))
    return result


if __name__ == "__main__":
    chosen = tuple(sys.argv[1:]) or PARTS
    sys.exit(common.main("dataplane", lambda: run(chosen)))
