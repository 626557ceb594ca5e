"""A directory that has changed a little: built of the image that was made before."""

from __future__ import annotations

import re
from typing import Any

import pytest
from cluster import Cluster
from environments import Environment, make_environment

MIB = 1 << 20
FILES = 300
SUM = "cd {path} && find . -type f | sort | xargs sha256sum | sha256sum"


@pytest.fixture
def env(vine: Cluster) -> Environment:
    """8 MiB that do not compress and some hundred small files; nothing anywhere."""
    vine.evict_all()
    env = make_environment(vine, ballast_bytes=8 * MIB)
    many = f"mkdir {env.path}/many && cd {env.path}/many && "
    many += f"for i in $(seq {FILES}); do echo $i > $i; done"
    vine.sh("n1", many, user=env.owner)
    return env


def change(vine: Cluster, env: Environment, word: str) -> None:
    """A line of a module; a new file; one that is gone."""
    module = f"{env.path}/lib/python3*/site-packages/hello/__init__.py"
    script = (
        f"echo 'WORDS = \"{word}\"' > {module}; echo {word} > {env.path}/many/new; "
        f"rm $(ls -d {env.path}/many/1* | head -1)"
    )
    vine.sh("n1", script, user=env.owner)


def digests(vine: Cluster, node: str) -> set[str]:
    return {o["digest"] for o in vine.status(node)["objects"]}


def stage(
    vine: Cluster, env: Environment, node: str, nodes: str = "", user: str = ""
) -> dict[str, Any]:
    """The object that came to `node` by it."""
    known = digests(vine, node)
    words = ["vine-env", "stage", env.path, "--nodes", nodes or node]
    vine.run(node, *words, user=user or env.owner, timeout=120)
    (new,) = [o for o in vine.status(node)["objects"] if o["digest"] not in known]
    return new


def base_of(vine: Cluster, node: str) -> str:
    """What the newest build of the node's was made of: 16 digits or "none"."""
    found = re.findall(r"event=built .* base=(\S+)", vine.log(node))
    return str(found[-1])


def expect(vine: Cluster, env: Environment, node: str, word: str) -> None:
    """A job there sees this version, and the files of the source."""
    digest = vine.sh("n1", SUM.format(path=env.path), user=env.owner).split()[0]
    script = f"{env.script}; {SUM.format(path=env.path)}"
    option = f"--vine-env={env.path}"
    words = ["-N1", "-w", node, option, "--vine-fallback=fail", "bash", "-c", script]
    out = vine.srun(*words, user=env.owner).out
    assert out.split()[0] == word and digest in out.split(), out


def test_only_what_has_changed_is_read(vine: Cluster, env: Environment) -> None:
    first = stage(vine, env, "n1", "n1,n2")
    assert first["same_files"] == 0
    change(vine, env, "second")
    vine.pfs_drop_caches()
    vine.pfs_zero()
    second = stage(vine, env, "n1", "n1,n2")
    counters = vine.pfs_counters()
    assert second["same_files"] >= FILES - 1
    assert 8 * MIB < second["same_bytes"] < 9 * MIB
    assert counters["bytes_read"] <= 64 << 10  # a module and a new file
    entries = int(vine.sh("n1", f"find {env.path} | wc -l", user=env.owner))
    assert counters["meta_ops"] <= 2.5 * entries
    assert base_of(vine, "n1") == first["digest"][:16]
    assert "not read again" in vine.run("n1", "vine-env", "status").out
    expect(vine, env, "n1", "second")
    # An image that came from a peer is as good, and so it goes on.
    vine.run("n1", "vine-env", "evict", "--all")
    change(vine, env, "third")
    third = stage(vine, env, "n2")
    assert third["same_files"] >= FILES - 2
    assert base_of(vine, "n2") == second["digest"][:16]
    expect(vine, env, "n2", "third")


def test_with_and_without_a_base_the_bytes_are_the_same(
    vine: Cluster, env: Environment
) -> None:
    stage(vine, env, "n1")
    change(vine, env, "second")
    second = stage(vine, env, "n1")
    assert second["same_files"] > 0
    vine.run("n1", "vine-env", "evict", "--all")
    other = stage(vine, env, "n2")
    assert other["same_files"] == 0
    assert other["digest"] == second["digest"]


def test_another_users_private_tree_is_no_base(vine: Cluster, env: Environment) -> None:
    """root may read it as well, but the image was made for vine1."""
    vine.sh("n1", f"chmod 700 {env.path}", user=env.owner)
    first = stage(vine, env, "n1")
    change(vine, env, "second")
    theirs = stage(vine, env, "n1", user="root")
    assert theirs["same_files"] == 0 and base_of(vine, "n1") == "none"
    change(vine, env, "third")
    third = stage(vine, env, "n1")
    assert base_of(vine, "n1") == first["digest"][:16]
    assert third["same_files"] > 0
    # What everybody may read is made once for all.
    vine.sh("n1", f"chmod 755 {env.path}", user=env.owner)
    fourth = stage(vine, env, "n1", user="vine2")
    assert base_of(vine, "n1") == "none"
    change(vine, env, "fifth")
    stage(vine, env, "n1")
    assert base_of(vine, "n1") in (fourth["digest"][:16], third["digest"][:16])


def test_a_damaged_base_is_none(vine: Cluster, env: Environment) -> None:
    first = stage(vine, env, "n1")
    image = f"/local/vine/objects/{first['digest']}/image"
    spoil = (
        f"f = open('{image}', 'r+b'); f.seek({first['size'] // 2}); "
        f"f.write(bytes({first['size'] // 4}))"
    )
    vine.run("n1", "python3", "-c", spoil)
    change(vine, env, "second")
    second = stage(vine, env, "n1")
    assert second["same_files"] == 0
    log = vine.log("n1")
    assert "event=base-damaged" in log or "event=base-refused" in log
    expect(vine, env, "n1", "second")
    vine.evict_all()


def test_a_base_that_is_evicted_meanwhile_serves_still(
    vine: Cluster, env: Environment
) -> None:
    stage(vine, env, "n1")
    change(vine, env, "second")
    vine.pfs_drop_caches()
    vine.pfs_set(lat_us=5000)
    try:
        words = ["n1", "vine-env", "stage", env.path, "--nodes", "n1"]
        staging = vine.popen(*words, user=env.owner)
        vine.run("n1", "vine-env", "evict", "--all")
        assert staging.wait(120).code == 0
    finally:
        vine.pfs_set(lat_us=0)
    expect(vine, env, "n1", "second")
