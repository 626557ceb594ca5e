"""Real Parsl workflows, with the Python package of this tree."""

from __future__ import annotations

import pytest
from cluster import Cluster
from environments import make_environment, totals
from parsl_user import USER, install_packages, result_of, start_script


@pytest.fixture(scope="module")
def packages(cluster: Cluster) -> str:
    return install_packages(cluster)


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
    words = [env.path, data, "4", "24", packages]
    found = result_of(start_script(vine, packages, "parsl_flow.py", *words))
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
