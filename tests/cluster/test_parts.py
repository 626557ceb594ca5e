"""Chunks leave the origin while the image is still being written."""

from __future__ import annotations

import re
import secrets
from datetime import datetime

from cluster import Cluster
from environments import totals

FILES = 60
FILE_BYTES = 1_500_000
NODES = ("n1", "n2", "n3", "n4")
EVENT = re.compile(r"^(\S+)Z \S+ event=(\S+) (.*)$")


def make_tree(cluster: Cluster) -> str:
    """Random bytes: an image as large as its files. Read slowly."""
    path = f"/pfs/home/vine1/parts-{secrets.token_hex(4)}"
    cluster.sh(
        "n1",
        f"mkdir {path} && for i in $(seq {FILES}); do"
        f" head -c {FILE_BYTES} /dev/urandom > {path}/$i; done",
        user="vine1",
    )
    cluster.pfs_drop_caches()
    cluster.pfs_set(client_mbs=15)
    return path


def events(
    cluster: Cluster, node: str, kind: str, since: datetime
) -> list[tuple[datetime, str]]:
    """(when, fields) of what the node's daemon has logged of this kind."""
    found = []
    for line in cluster.log(node).splitlines():
        if (match := EVENT.match(line)) and match[2] == kind:
            when = datetime.fromisoformat(match[1])
            if when >= since:
                found.append((when, match[3]))
    return found


def now(cluster: Cluster) -> datetime:
    text = cluster.sh("n1", "date -u +%Y-%m-%dT%H:%M:%S.%6N")
    return datetime.fromisoformat(text.strip())


def assert_no_part_left(cluster: Cluster) -> None:
    for node in NODES:
        found = cluster.sh(node, "find /local/vine -name part")
        assert found == "", f"{node} keeps {found}"
        states = [o["state"] for o in cluster.status(node)["objects"]]
        assert "part" not in states


def test_parts_are_complete_elsewhere_before_the_image(vine: Cluster) -> None:
    vine.evict_all()
    path = make_tree(vine)
    begin = now(vine)
    before = totals(vine)
    vine.run(
        "n1", "vine-env", "stage", path, "--nodes", "n[1-4]", user="vine1", timeout=120
    )
    after = totals(vine)
    builder = next(n for n in NODES if events(vine, n, "built", begin))
    ((built, _),) = events(vine, builder, "built", begin)
    parts = events(vine, builder, "part", begin)
    assert len(parts) >= 3
    others = [n for n in NODES if n != builder]
    for node in others:
        early = [e for e in events(vine, node, "complete", begin) if e[0] < built]
        assert len(early) >= len(parts) - 2, f"{node} had {len(early)} of {len(parts)}"
    # All of it went over the links once: the image's rest is what the parts left over.
    size = after["bytes_built"] - before["bytes_built"]
    assert size > FILES * FILE_BYTES
    moved = after["bytes_peer"] - before["bytes_peer"]
    assert moved < 1.25 * len(others) * size
    assert_no_part_left(vine)
    for node in NODES:
        objects = vine.status(node)["objects"]
        assert [o["state"] for o in objects] == ["complete"]


def test_a_builder_that_dies_leaves_no_parts(vine: Cluster) -> None:
    vine.evict_all()
    path = make_tree(vine)
    begin = now(vine)
    stage = vine.popen(
        "n1", "vine-env", "stage", path, "--nodes", "n[2-4]", user="vine1"
    )

    def builder() -> str | None:
        found = [n for n in NODES if len(events(vine, n, "part", begin)) >= 2]
        return found[0] if found else None

    node = vine.wait_for(builder, 30, "two parts of a build")
    vine.daemon(node, "kill")
    assert stage.wait(60).code != 0  # one of the nodes it was to reach is gone
    vine.daemon(node, "start")

    def settled() -> bool:
        return all(not vine.status(n)["jobs"] for n in NODES)

    vine.pfs_set(client_mbs=0)
    vine.wait_for(settled, 60, "the end of what goes on elsewhere")
    assert_no_part_left(vine)


def test_one_node_alone_makes_no_parts(vine: Cluster) -> None:
    vine.evict_all()
    path = make_tree(vine)
    begin = now(vine)
    vine.run("n1", "vine-env", "stage", path, user="vine1", timeout=120)
    assert len(events(vine, "n1", "built", begin)) == 1
    assert events(vine, "n1", "part", begin) == []
