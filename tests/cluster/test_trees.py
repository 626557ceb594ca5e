"""Trees arrive entry by entry as they were, and never as a mix of two versions."""

from __future__ import annotations

import hashlib
import secrets
import shutil
from pathlib import Path

import pytest
from cluster import Cluster
from environments import moved, totals

ODDTREE = Path(__file__).resolve().parent.parent / "lib" / "oddtree.py"
SPARSE_BYTES = 3 << 30

DESCRIBE = """
import sys
sys.path.insert(0, "/home/vine1")
import oddtree
for entry in sorted(oddtree.describe_tree({path!r}).items(), key=repr):
    print(ascii(entry))
"""

MAKE = """
import sys
sys.path.insert(0, "/home/vine1")
import oddtree
oddtree.make_odd_tree({path!r}, tiny={tiny})
"""


@pytest.fixture
def oddtree(vine: Cluster) -> None:
    """The module where vine1 can import it on every node."""
    shutil.copy(ODDTREE, vine.layout.home / "vine1" / "oddtree.py")
    (vine.layout.home / "vine1" / "oddtree.py").chmod(0o644)


def describe(cluster: Cluster, path: str, *srun: str) -> list[str]:
    code = DESCRIBE.format(path=path)
    words = ["/usr/bin/python3", "-c", code]
    if srun:
        return cluster.srun(*srun, *words, timeout=300).out.splitlines()
    return cluster.run("n1", *words, user="vine1", timeout=300).out.splitlines()


def test_odd_tree_is_identical(vine: Cluster, oddtree: None) -> None:
    path = f"/pfs/home/vine1/odd-{secrets.token_hex(4)}"  # goes with the cluster
    code = MAKE.format(path=path, tiny=50000)
    vine.run("n1", "/usr/bin/python3", "-c", code, user="vine1", timeout=300)
    expected = describe(vine, path)
    assert len(expected) > 50000
    before = totals(vine)
    got = describe(vine, path, "-N1", "-w", "n5", f"--vine-env={path}")
    delta = moved(before, totals(vine))
    assert delta["bytes_built"] > 0, "it was not staged"
    different = sorted(set(expected) ^ set(got))
    assert not different, f"{len(different)} entries differ, first {different[:4]}"
    # Through a peer as well: n6 has the same bytes from n5.
    assert describe(vine, path, "-N1", "-w", "n6", f"--vine-env={path}") == expected
    assert moved(before, totals(vine))["bytes_peer"] > 0


ARCHIVES = {
    "env.tar.gz": "tar czf {out} -C {dir} .",
    "env.tar.zst": "tar c -C {dir} . | zstd -q -o {out}",
    "env.zip": "cd {dir} && zip -qry {out} .",
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_archive_becomes_an_image(vine: Cluster, name: str) -> None:
    parent = f"/pfs/home/vine1/archive-{name}"
    tree, out = f"{parent}/tree", f"{parent}/{name}"
    vine.sh(
        "n1",
        f"rm -rf {parent}; mkdir -p {tree}/sub; echo data > {tree}/sub/file;"
        f"ln -s sub/file {tree}/link; chmod 750 {tree}/sub; seq 100000 > {tree}/long;"
        + ARCHIVES[name].format(out=out, dir=tree),
        user="vine1",
    )
    dst = f"{parent}/dst"
    vine.sh("n1", f"mkdir {dst}", user="vine1")
    show = f"cd {dst} && cat link && md5sum < long && stat -c %a sub && ls /local"
    words = ["-N2", f"--vine-env={out}:{dst}", "bash", "-c", show]
    result = vine.srun(*words)
    numbers = "".join(f"{i}\n" for i in range(1, 100001)).encode()
    assert result.out.count(hashlib.md5(numbers).hexdigest()) == 2
    assert result.out.count("data\n") == 2
    assert result.out.count("750\n") == 2
    # Not unpacked on disk: the store has objects, nothing else.
    found = vine.sh("n1", "find /local/vine -name link -o -name long")
    assert found == ""


def build_on(cluster: Cluster, node: str, path: str) -> str:
    """The digest of what this node alone makes of it; nothing of it stays there."""
    cluster.run(node, "vine-env", "evict", "--all")
    before = totals(cluster)
    cluster.run(node, "vine-env", "stage", path, user="vine1")
    assert moved(before, totals(cluster))["bytes_built"] > 0, "it was not built here"
    (made,) = cluster.status(node)["objects"]
    cluster.run(node, "vine-env", "evict", "--all")
    digest: str = made["digest"]
    return digest


def test_two_nodes_build_the_same_object(vine: Cluster, oddtree: None) -> None:
    """And its digests are right, though the builder takes back what it wrote twice."""
    path = f"/pfs/home/vine1/same-{secrets.token_hex(4)}"
    code = MAKE.format(path=path, tiny=500)
    vine.run("n1", "/usr/bin/python3", "-c", code, user="vine1", timeout=300)
    vine.sh(
        "n1",
        f"cd {path} && for i in a b c; do head -c 9000000 /dev/urandom > 0-$i &&"
        "cp 0-$i 1-$i && cp 0-$i 2-$i; done",
        user="vine1",
    )
    first = build_on(vine, "n3", path)
    assert build_on(vine, "n4", path) == first
    # A receiver checks each chunk against the digests.
    vine.run("n3", "vine-env", "stage", path, "--nodes", "n[3,4]", user="vine1")
    states = [vine.status(node)["objects"][0] for node in ("n3", "n4")]
    assert [s["digest"] for s in states] == [first, first]
    assert [s["state"] for s in states] == ["complete", "complete"]


CHANGER = """
import os, sys, time
path, go = sys.argv[1], sys.argv[2]
version = 0
while not os.path.exists(go):
    version += 1
    for name in sorted(os.listdir(path)):
        with open(os.path.join(path, name), "r+b") as f:
            f.write(b"%08d" % version)
"""


def test_a_tree_that_changes_while_read_is_never_mixed(vine: Cluster) -> None:
    """Files are rewritten all the time, slowly read: refused, or one whole version."""
    path = "/pfs/home/vine1/changing"
    go = "/pfs/home/vine1/changing-stop"
    vine.sh(
        "n1",
        f"rm -rf {path} {go}; mkdir -p {path};"
        f"for i in $(seq 200); do printf 00000000 > {path}/f$i; done",
        user="vine1",
    )
    vine.pfs_set(lat_us=2000, mds_ops=500)
    changer = vine.popen(
        "n8", "/usr/bin/python3", "-c", CHANGER, path, go, user="vine1"
    )
    words = ["-N1", "-w", "n1", f"--vine-env={path}", "--vine-fallback=fail"]
    result = vine.srun(*words, "bash", "-c", f"cat {path}/*", check=False)
    assert result.code == 1
    assert "chang" in result.err, result.err
    assert result.out == ""
    vine.run("n8", "touch", go, user="vine1")
    changer.wait(30)
    vine.pfs_set(lat_us=0, mds_ops=0)
    result = vine.srun(*words, "bash", "-c", f"cat {path}/*")
    assert len(result.out) == 8 * 200
    assert len({result.out[i : i + 8] for i in range(0, len(result.out), 8)}) == 1


def test_a_file_replaced_while_read_is_seen(vine: Cluster) -> None:
    """One large file is overwritten in the middle of the read, once: read again."""
    path = "/pfs/home/vine1/replaced"
    vine.sh(
        "n1",
        f"rm -rf {path}; mkdir -p {path}; head -c 60000000 /dev/zero > {path}/a;"
        f"cp {path}/a {path}/b",
        user="vine1",
    )
    vine.pfs_drop_caches()
    vine.pfs_zero()
    vine.pfs_set(client_mbs=30)
    sums = f"cd {path} && md5sum a b"
    running = vine.srun_start(
        "-N1", "-w", "n1", f"--vine-env={path}", "bash", "-c", sums
    )
    vine.wait_for(
        lambda: vine.pfs_counters()["bytes_read"] > 20_000_000, 30, "a part of the read"
    )
    write = "import sys; f = open(sys.argv[1], 'r+b'); f.write(b'x' * 60000000)"
    for name in ("a", "b"):
        vine.run("n8", "/usr/bin/python3", "-c", write, f"{path}/{name}", user="vine1")
    vine.pfs_set(client_mbs=0)
    result = running.wait(120).checked()
    first, second = (line.split()[0] for line in result.out.splitlines())
    assert first == second == hashlib.md5(b"x" * 60000000).hexdigest()
