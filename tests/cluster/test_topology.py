"""Nodes find their leaf switch in topology.conf when their daemon starts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cluster import Cluster
from environments import make_environment

TOPOLOGY = "/etc/slurm/topology.conf"
CONF = "/etc/vine-env/vine-env.conf"
NODE = "n3"


def switch_after(vine: Cluster, topology: str) -> object:
    """What the daemon says when it started with this file."""
    (vine.root(NODE) / TOPOLOGY[1:]).write_text(topology)
    vine.restart_daemon(NODE)
    return vine.status(NODE)["node"]["switch"]


def refusals(vine: Cluster) -> list[str]:
    lines = vine.log(NODE).splitlines()
    return [line for line in lines if "event=topology-refused" in line]


@pytest.fixture
def node(vine: Cluster) -> Iterator[Cluster]:
    """The cluster, with NODE as it was afterwards."""
    before = vine.sh(NODE, f"cat {CONF}")
    yield vine
    (vine.root(NODE) / CONF[1:]).write_text(before)
    (vine.root(NODE) / TOPOLOGY[1:]).unlink(missing_ok=True)
    vine.restart_daemon(NODE)
    assert vine.status(NODE)["node"]["switch"] == ""


def test_switch_from_topology_conf(node: Cluster) -> None:
    assert node.status(NODE)["node"]["switch"] == ""
    said = len(refusals(node))
    two_racks = "SwitchName=rack1 Nodes=n[1-2]\nSwitchName=rack2 Nodes=n[3-8]\n"
    assert switch_after(node, two_racks) == "rack2"
    assert "switch    rack2\n" in node.sh(NODE, "vine-env status")
    up = lambda: node.status(NODE)["node"]["manager_up"]  # noqa: E731
    node.wait_for(up, 10, "the manager to take it")
    assert switch_after(node, "SwitchName=rack1 Nodes=n[1-2]\n") == ""
    assert len(refusals(node)) == said


def test_a_bad_topology_conf_is_told_and_harms_nobody(node: Cluster) -> None:
    said = len(refusals(node))
    assert switch_after(node, "SwitchName=rack1 Nodes=n[3-\n") == ""
    told = refusals(node)[said:]
    assert len(told) == 1
    assert "line 1" in told[0]
    assert switch_after(node, "SwitchName=rack/1 Nodes=n3\n") == ""
    assert "rack/1" in refusals(node)[said + 1]


def test_the_configuration_has_the_last_word(node: Cluster) -> None:
    node.sh(NODE, f"sed -i 's/^\\[node\\]/&\\nswitch = rack7/' {CONF}")
    assert switch_after(node, "SwitchName=rack1 Nodes=n3\n") == "rack7"


def test_few_nodes_of_two_racks_are_fed_by_trees(vine: Cluster) -> None:
    """The manager knows the racks; in one rack alone it takes 128 nodes."""
    racks = "SwitchName=rack1 Nodes=n[1-4]\nSwitchName=rack2 Nodes=n[5-8]\n"
    begun = vine.log("ctl").count("event=trees-begin")
    try:
        for node in vine.nodes:
            (vine.root(node) / TOPOLOGY[1:]).write_text(racks)
            vine.restart_daemon(node)
        env = make_environment(vine, ballast_bytes=80 << 20)
        vine.srun("-N1", "-w", "n1", f"--vine-env={env.path}", "true")
        done = vine.srun("-N8", f"--vine-env={env.path}", env.script)
        assert done.out.count("first") == 8
        assert vine.log("ctl").count("event=trees-begin") > begun
    finally:
        for node in vine.nodes:
            (vine.root(node) / TOPOLOGY[1:]).unlink()
            vine.restart_daemon(node)
