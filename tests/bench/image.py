"""`make bench-image`: from a directory to an image.

Side by side in one run, on one node of a test cluster: `vine-env stage DIRECTORY`, from
the command's start to the image and its manifest (walk, read, compress, cut, hash), and
mksquashfs of the same tree with the same cores, compressor, level and block size. Both
find the tree in the page cache. And until the image is published and mounted, which
mksquashfs does not do; newer kernels write the whole file out first. Then, on the
stand-in for a shared file system: the operations that a cold build costs, and the rate
of the walk alone.

The tree is a venv made of the wheels that contrib/bootstrap --for bench fetches, or a
copy of the directory that BENCH_TREE names.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import common
import memory
from common import PFS_COSTS, REPO, BenchError, Bound, Cluster, median

USER = "vine1"
LOCAL = "/local/bench-image"  # the node's own disk
TREE = f"{LOCAL}/tree"
SHARED = f"/pfs/home/{USER}/bench-image"
WHEELS = [REPO / "build/wheels-bench", REPO / "build/wheels"]
VINE_SOURCE = "/usr/libexec/vine-env/vine-source"
CORES = common.cores()
# What daemon/image/builder.c and daemon/squash/disk.h say.
MKSQUASHFS = [
    "mksquashfs", TREE, f"{LOCAL}/other.sqsh", "-comp", "zstd",
    "-Xcompression-level", "3", "-b", "131072", "-processors", str(CORES),
    "-noappend", "-no-xattrs", "-no-progress", "-quiet",
]  # fmt: skip

# Run in the node behind tests/lib/source.py: vine-source as the daemon starts it, its
# tar thrown away. Prints seconds until the source was resolved, and the event.
READ_SOURCE = """
import sys, threading
program, path, uid, gid, caching, what = sys.argv[1:]
begin = time.monotonic()
with Source(program, path, int(uid), int(gid), "--caching", caching) as source:
    event = source.event(600)
    seconds = time.monotonic() - begin
    if what == "build":
        source.send(cmd="build")
        reader = threading.Thread(target=source.read_bulk)
        reader.start()
        done = source.event(600)
        reader.join()
        assert done["event"] == "done", done
assert event["event"] == "resolved", event
print(json.dumps({"seconds": seconds, "entries": event["entries"]}))
"""


def make_tree(cluster: Cluster) -> None:
    """The tree on n1's disk and on the shared file system, as USER's."""
    cluster.run("n1", "install", "-d", "-o", USER, LOCAL, SHARED)
    if given := os.environ.get("BENCH_TREE"):
        copy_in(cluster, Path(given))
    else:
        wheels = next((w for w in WHEELS if any(w.glob("*.whl"))), None)
        if wheels is None:
            raise BenchError("no wheels: run contrib/bootstrap --for bench")
        copy_in(cluster, wheels, "wheels")
        cluster.sh(
            "n1",
            f"python3 -m venv {TREE} && {TREE}/bin/pip --disable-pip-version-check "
            f"install -q --no-index --no-compile {LOCAL}/wheels/*.whl && "
            f"({TREE}/bin/python -m compileall -qq -j 0 {TREE}/lib || true)",
            user=USER,
            timeout=300,
        )
    cluster.pfs_set(**dict.fromkeys(PFS_COSTS, 0))
    cluster.run("n1", "cp", "-a", TREE, SHARED, user=USER, timeout=300)


def copy_in(cluster: Cluster, folder: Path, name: str = "tree") -> None:
    command = ["tar", "-cf", "-", "-C", str(folder), "."]
    home = cluster.layout.home / USER
    archive = home / "bench-image.tar"
    with archive.open("wb") as out:
        subprocess.run(command, stdout=out, check=True)
    try:
        cluster.sh(
            "n1",
            f"mkdir {LOCAL}/{name} && tar -xf /home/{USER}/{archive.name} "
            f"-C {LOCAL}/{name} --no-same-owner",
            user=USER,
            timeout=300,
        )
    finally:
        archive.unlink()


def timed(cluster: Cluster, *command: str) -> float:
    begin = time.monotonic()
    cluster.run("n1", *command, user=USER, timeout=300)
    return time.monotonic() - begin


def built_at(cluster: Cluster) -> float:
    """When the node's last image was whole, in seconds since 1970."""
    line = next(
        line
        for line in reversed(cluster.log("n1").splitlines())
        if "event=built " in line
    )
    return datetime.fromisoformat(line.split()[0]).timestamp()


def measure_speed(cluster: Cluster) -> dict[str, Any]:
    ours, mounted, theirs = [], [], []
    cluster.sh("n1", f"find {TREE} -type f -exec cat {{}} + >/dev/null", user=USER)
    for _ in range(2 * common.rounds() + 1):  # a round takes seconds
        memory.touch()
        theirs.append(timed(cluster, *MKSQUASHFS))
        cluster.run("n1", "vine-env", "evict", "--all")
        memory.touch()
        begin = time.time()
        mounted.append(timed(cluster, "vine-env", "stage", TREE))
        ours.append(built_at(cluster) - begin)
    status = cluster.status("n1")
    return {
        "ratios": [a / b for a, b in zip(ours, theirs, strict=True)],
        "mounted_ratios": [a / b for a, b in zip(mounted, theirs, strict=True)],
        "built_seconds": ours,
        "stage_seconds": mounted,
        "mksquashfs_seconds": theirs,
        "image_bytes": status["objects"][0]["size"],
        "mksquashfs_bytes": int(
            cluster.run("n1", "stat", "-c", "%s", f"{LOCAL}/other.sqsh").out
        ),
    }


def read_source(cluster: Cluster, caching: str, what: str) -> dict[str, float]:
    """What vine-source needed, nothing cached before, and the operations it cost."""
    library = (REPO / "tests/lib/source.py").read_text()
    ids = [cluster.run("n1", "id", f, USER).out.strip() for f in ("-u", "-g")]
    cluster.pfs_drop_caches()
    cluster.pfs_zero()
    done = cluster.run(
        "n1",
        *("python3", "-c", library + READ_SOURCE),
        *(VINE_SOURCE, f"{SHARED}/tree", *ids, caching, what),
        timeout=300,
    )
    counted = cluster.pfs_counters()
    said: dict[str, float] = json.loads(done.out)
    return {**said, "ops": counted["meta_ops"], "bytes": counted["bytes_read"]}


def measure_operations(cluster: Cluster) -> dict[str, Any]:
    """Counted, not timed: the file system costs nothing meanwhile."""
    cluster.pfs_set(**dict.fromkeys(PFS_COSTS, 0))
    listed = cluster.sh("n1", f"find {SHARED}/tree -type f -printf '%s\\n'", user=USER)
    sizes = [int(line) for line in listed.split()]
    found: dict[str, Any] = {"files": len(sizes), "bytes": sum(sizes)}
    for caching in ("coherent", "strict"):
        found[caching] = read_source(cluster, caching, "build")
    return found


def measure_walk(cluster: Cluster) -> list[dict[str, float]]:
    cluster.pfs_set(**PFS_COSTS)
    return [read_source(cluster, "auto", "walk") for _ in range(common.rounds())]


def run() -> dict[str, Any]:
    with common.running_cluster(nodes=2) as cluster:
        make_tree(cluster)
        speed = measure_speed(cluster)
        operations = measure_operations(cluster)
        walk = measure_walk(cluster)
    rate = median([w["ops"] / w["seconds"] for w in walk])
    files = operations["files"]
    per_file = {
        word: operations[word]["ops"] / files for word in ("coherent", "strict")
    }
    bounds = [
        Bound(
            "directory to image, of mksquashfs's time",
            median(speed["ratios"]),
            1.0,
        ),
        Bound(
            "directory to mounted image, of mksquashfs's time",
            median(speed["mounted_ratios"]),
            1.0,
        ),
        Bound(
            "bytes read from the source, of the files' bytes",
            operations["coherent"]["bytes"] / operations["bytes"],
            1.02,
        ),
        Bound("operations a file, cold, coherent", per_file["coherent"], 2.5),
        # What the least is when nothing cached may be believed: README.md.
        Bound("operations a file, cold, strict", per_file["strict"], 3.5),
        Bound(
            "walk, operations a second of the server's",
            rate / PFS_COSTS["mds_ops"],
            0.9,
            at_least=True,
        ),
    ]
    return {
        "speed": speed,
        "operations": operations,
        "walk": walk,
        "walk_ops_per_s": rate,
        "bounds": bounds,
    }


if __name__ == "__main__":
    sys.exit(common.main("image", run))
