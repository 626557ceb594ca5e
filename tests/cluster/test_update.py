"""A new version of an environment: what the node has of it does not move again."""

from __future__ import annotations

import pytest
from cluster import Cluster
from environments import Environment, make_environment, make_image, totals

MIB = 1 << 20
SUM = "cd {path} && find . -type f | sort | xargs sha256sum | sha256sum"


@pytest.fixture
def env(vine: Cluster) -> Environment:
    """24 MiB that do not compress, so some hundred chunks; nothing else anywhere."""
    vine.evict_all()
    return make_environment(vine, ballast_bytes=24 * MIB)


def change(vine: Cluster, env: Environment, word: str) -> None:
    """A line of a module, and a mebibyte more."""
    module = f"{env.path}/lib/python3*/site-packages/hello/__init__.py"
    script = (
        f"echo 'WORDS = \"{word}\"' > {module}; "
        f"head -c {MIB} /dev/urandom > {env.path}/more-{word}"
    )
    vine.sh("n1", script, user=env.owner)


def run(vine: Cluster, env: Environment, nodes: str, source: str = "") -> list[str]:
    """A job on these nodes: what the script says and a digest of all files, by node."""
    option = f"--vine-env={source or env.path}:{env.path}"
    script = f"echo $(hostname) $({env.script}) $({SUM.format(path=env.path)})"
    count = str(len(nodes.split(",")))
    result = vine.srun("-N", count, "-w", nodes, option, "bash", "-c", script)
    return result.out.splitlines()


def expect(vine: Cluster, env: Environment, word: str, lines: list[str]) -> None:
    """Every node saw this version, and the files of the source."""
    (digest, *_) = vine.sh("n1", SUM.format(path=env.path), user=env.owner).split()
    assert lines
    for line in lines:
        assert line.split()[1] == word
        assert digest in line.split(), line


def newest(vine: Cluster, node: str, known: set[str]) -> dict[str, int]:
    """The one object of the node's that is not among these."""
    found = [o for o in vine.status(node)["objects"] if o["digest"] not in known]
    assert len(found) == 1
    return found[0]


def digests(vine: Cluster, node: str) -> set[str]:
    return {o["digest"] for o in vine.status(node)["objects"]}


def test_only_what_is_new_moves(vine: Cluster, env: Environment) -> None:
    nodes = "n1,n2,n3,n4,n5,n6,n7,n8"
    expect(vine, env, "first", run(vine, env, nodes))
    known = digests(vine, "n1")
    change(vine, env, "second")
    before = totals(vine)
    expect(vine, env, "second", run(vine, env, nodes))
    after = totals(vine)
    received = []
    for node in vine.nodes:
        o = newest(vine, node, known)
        if o["bytes_peer"] + o["bytes_reused"] > 0:  # not the node that built it
            assert o["bytes_peer"] + o["bytes_reused"] == o["size"]
            received.append(o["bytes_peer"])
    assert len(received) == len(vine.nodes) - 1
    # The new mebibyte, and two chunks around each change.
    assert max(received) <= 3.5 * MIB
    assert after["bytes_peer"] - before["bytes_peer"] == sum(received)
    assert "event=reused" in "".join(vine.log(n) for n in vine.nodes)
    text = vine.run("n2", "vine-env", "status").out
    assert "REUSED" in text and " reused, " in text
    # A daemon's restart keeps what it knows of the chunks.
    for node in vine.nodes:
        vine.daemon(node, "stop")
        vine.daemon(node, "start")
    known = digests(vine, "n1")
    change(vine, env, "third")
    expect(vine, env, "third", run(vine, env, nodes))
    moved = [newest(vine, node, known)["bytes_peer"] for node in vine.nodes]
    assert max(moved) <= 3.5 * MIB


def test_a_new_packed_image_is_read_once(vine: Cluster, env: Environment) -> None:
    """By one node, all of it; to the others only what is new moves."""
    nodes = ["n1", "n2", "n3", "n4"]
    first, _ = make_image(vine, env, "first.sqsh")
    run(vine, env, ",".join(nodes), first)
    known = digests(vine, "n1")
    change(vine, env, "second")
    second, size = make_image(vine, env, "second.sqsh")
    vine.pfs_drop_caches()
    vine.pfs_zero()
    lines = run(vine, env, ",".join(nodes), second)
    assert vine.pfs_counters()["bytes_read"] <= size + MIB
    expect(vine, env, "second", lines)
    found = [newest(vine, node, known) for node in nodes]
    for o in found:
        assert o["bytes_peer"] + o["bytes_origin"] + o["bytes_reused"] == o["size"]
    (origin,) = [o for o in found if o["bytes_origin"] > 0]
    assert origin["bytes_origin"] == origin["size"]
    for node, o in zip(nodes, found, strict=True):
        assert f"bytes_reused={o['bytes_reused']}" in vine.log(node)
        assert o is origin or 0 < o["bytes_peer"] <= 2 * MIB


@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_old_object_is_no_source(
    vine: Cluster, env: Environment, packed: bool
) -> None:
    def source(name: str) -> str:
        return make_image(vine, env, f"damaged-{name}.sqsh")[0] if packed else ""

    nodes = ["n1", "n2", "n3"]
    expect(vine, env, "first", run(vine, env, ",".join(nodes), source("first")))
    known = digests(vine, "n1")
    (old,) = vine.status("n1")["objects"]
    image = f"/local/vine/objects/{old['digest']}/image"
    spoil = (
        f"f = open('{image}', 'r+b'); f.seek({old['size'] // 2}); "
        f"f.write(bytes({old['size'] // 4}))"
    )
    for node in nodes:
        vine.run(node, "python3", "-c", spoil)
    change(vine, env, "second")
    expect(vine, env, "second", run(vine, env, ",".join(nodes), source("second")))
    others = [n for n in nodes if newest(vine, n, known)["bytes_peer"] > 0]
    assert len(others) == 2  # one has built or read it
    for node in others:
        assert "event=chunk-not-reused" in vine.log(node)
        o = newest(vine, node, known)
        assert o["bytes_reused"] > 0
        assert o["bytes_peer"] >= old["size"] // 5
    vine.evict_all()


def test_an_evicted_old_object_is_no_source(vine: Cluster, env: Environment) -> None:
    run(vine, env, "n1,n2,n3,n4")
    known = digests(vine, "n1")
    for node in ("n2", "n3"):
        vine.run(node, "vine-env", "evict", "--all")
    change(vine, env, "second")
    expect(vine, env, "second", run(vine, env, "n1,n2,n3,n4"))
    assert newest(vine, "n2", known)["bytes_reused"] == 0
    received = [newest(vine, n, known)["bytes_peer"] for n in ("n1", "n2", "n3", "n4")]
    # One has built it; one at least has fetched all of it, one at least a little.
    assert max(received) >= 24 * MIB
    assert any(0 < count <= 3.5 * MIB for count in received)


FORGE = """
import sys
own, theirs, out, secret = sys.argv[1:]
def parts(path):
    data = open(path, 'rb').read()
    size = int.from_bytes(data[-24:-16], 'big')
    manifest = data[size + 8:-56]
    entries = [manifest[16 + i:52 + i] for i in range(0, len(manifest) - 16, 36)]
    return data[:size], entries
mine, entries = parts(own)
other, victims = parts(theirs)
victim = victims[int(secret)]
length = int.from_bytes(victim[:4], 'big')
at = len(entries) // 2  # where the image grows by it, so that its size stays right
while int.from_bytes(entries[at][:4], 'big') > length:
    at += 1
before = sum(int.from_bytes(e[:4], 'big') for e in entries[:at])
gone = int.from_bytes(entries[at][:4], 'big')
body = mine[:before] + bytes(length) + mine[before + gone:]
entries[at] = victim
manifest = b'VNM1' + len(body).to_bytes(8, 'big') + len(entries).to_bytes(4, 'big')
manifest += b''.join(entries)
total = 8 + len(manifest) + 32 + 8 + 8 + 8
open(out, 'wb').write(body + b'VNPACK1\\n' + manifest + bytes(32)
                      + len(body).to_bytes(8, 'big') + total.to_bytes(8, 'big')
                      + b'VNPACKED')
"""


def test_a_known_digest_gives_no_ones_bytes(vine: Cluster, env: Environment) -> None:
    """vine2's own image names one chunk of vine1's object among hundreds of its own."""
    theirs, _ = make_image(vine, env, "theirs.sqsh")
    run(vine, env, "n1,n2", theirs)
    mine = make_environment(vine, user="vine2", ballast_bytes=64 * MIB)
    own, _ = make_image(vine, mine, "own.sqsh")
    forged = f"{mine.path}-forged.sqsh"
    vine.run("n1", "python3", "-c", FORGE, own, theirs, forged, "5")
    vine.sh("n1", f"chown vine2 {forged}")
    before = [vine.status(n)["node"]["bytes_reused"] for n in ("n1", "n2")]
    words = ["-N2", "-w", "n1,n2", f"--vine-env={forged}:{mine.path}"]
    words.append("--vine-fallback=fail")
    result = vine.srun(*words, "true", user="vine2", check=False)
    assert result.code != 0
    assert "wrong bytes" in result.err
    # Nor if vine1, who has these bytes, is made to run it: it could be vine2's then.
    lent = f"{env.path}-lent.sqsh"
    vine.sh("n1", f"cp {forged} {lent} && chown vine1 {lent}")
    words[3] = f"--vine-env={lent}:{env.path}"
    result = vine.srun(*words, "true", user="vine1", check=False)
    assert result.code != 0
    assert "wrong bytes" in result.err
    assert [vine.status(n)["node"]["bytes_reused"] for n in ("n1", "n2")] == before
    # What our builder made is shown to whoever may read its source.
    other = make_environment(vine, user="vine2", ballast_bytes=0)
    vine.run("n1", "cp", f"{env.path}/ballast", f"{other.path}/ballast")
    vine.sh("n1", f"chown vine2 {other.path}/ballast")
    known = digests(vine, "n2")
    option = f"--vine-env={other.path}"
    vine.srun("-N2", "-w", "n1,n2", option, other.script, user="vine2")
    found = [o for n in ("n1", "n2") for o in vine.status(n)["objects"]]
    assert max(o["bytes_reused"] for o in found if o["digest"] not in known) > 0


def test_objects_reach_the_disk_when_the_rush_is_over(
    vine: Cluster, env: Environment
) -> None:
    """A removed one is not kept until then: its space is free at once."""
    run(vine, env, "n1,n2")
    vine.wait_for(lambda: not vine.status("n2")["jobs"], 20, "the lease's end")
    vine.run("n2", "vine-env", "evict", "--all")
    held = "ls -l /proc/$(pidof vined)/fd | grep -c 'objects/.*(deleted)' || true"
    vine.wait_for(lambda: vine.sh("n2", held).strip() == "0", 5, "free space")
    assert not vine.status("n2")["objects"]
    metas = "cat /local/vine/objects/*/meta.json"
    vine.wait_for(
        lambda: (
            vine.sh("n1", metas).count('"synced":true')
            == len(vine.status("n1")["objects"])
        ),
        30,
        "all objects to be synced",
    )
