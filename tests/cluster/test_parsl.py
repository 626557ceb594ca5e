"""Real Parsl workflows, with the Python package of this tree."""

from __future__ import annotations

import json
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster
from environments import make_environment, totals

REPO = Path(__file__).resolve().parents[2]
USER = "vine1"
# Parsl does not need them, and they are large.
LEFT_OUT = ("numpy*", "matplotlib*", "fontTools", "fonttools*", "PIL", "pillow*", "pip")


@pytest.fixture(scope="module")
def packages(cluster: Cluster) -> str:
    """Parsl and vine_env in the user's home directory, as `pip --user` puts them."""
    folder = cluster.layout.home / USER / "parsl-packages"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(
        sysconfig.get_paths()["purelib"],
        folder,
        ignore=shutil.ignore_patterns(*LEFT_OUT, "__pycache__"),
    )
    shutil.copytree(REPO / "python/vine_env", folder / "vine_env")
    shutil.copy(Path(__file__).with_name("parsl_flow.py"), folder)
    at = f"/home/{USER}/parsl-packages"
    cluster.run("n1", "chown", "-R", f"{USER}:{USER}", at)
    return at


def flow(
    vine: Cluster, packages: str, env: str, data: str, nodes: int, tasks: int
) -> dict[str, Any]:
    done = vine.run(
        "n1",
        *("env", f"PYTHONPATH={packages}", "/usr/bin/python3"),
        *(f"{packages}/parsl_flow.py", env, data, str(nodes), str(tasks), packages),
        user=USER,
        timeout=180,
    )
    found: dict[str, Any] = json.loads(done.out.strip().splitlines()[-1])
    return found


@pytest.mark.parametrize("parent", ["envs", "my envs"])
def test_workers_run_from_the_nodes_disks(
    vine: Cluster, packages: str, parent: str
) -> None:
    vine.evict_all()
    env = make_environment(
        vine, ballast_bytes=4 << 20, parent=f"/pfs/home/{USER}/{parent}"
    )
    data = f"{env.path}.csv"
    vine.run("n1", "bash", "-c", 'echo a,b > "$0"', data, user=USER)
    before = totals(vine)
    found = flow(vine, packages, env.path, data, 4, 24)
    assert [line.partition(":")[0] for line in found["doctor"]] == ["ok"] * 4
    assert len({task["node"] for task in found["tasks"]}) == 4
    for task in found["tasks"]:
        assert task["kinds"] == ["squashfs"], task
        assert task["prefix"] == env.path
        assert task["file"].startswith(env.path)
        assert task["word"] == "first"
        assert (task["data"], task["data_mounts"]) == ("a,b\n", 1)
    after = totals(vine)
    # Read and built by one node, got by the three others.
    assert after["bytes_built"] > before["bytes_built"]
    assert after["bytes_peer"] - before["bytes_peer"] > 3 * (4 << 20)
