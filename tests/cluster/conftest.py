"""Fixtures of the cluster tests: one cluster for all, checked after each test.

VINE_MUST_RUN=1 makes a test fail that would be skipped. MINISLURM_ATTACH=DIR uses the
cluster that runs there, and leaves it running: for writing tests.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, minislurm, skip, take_down, why_not
from minislurm_lib.layout import Layout

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

NODES = 8
RATE = "400mbit"
USED: dict[str, Cluster] = {}  # by the module whose tests had it


def pytest_configure(config: pytest.Config) -> None:
    """A terminated run takes its cluster down as an interrupted one does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def able() -> None:
    """For tests that start clusters of their own."""
    if why := why_not():
        skip(why)


@pytest.fixture(scope="session")
def cluster(able: None) -> Iterator[Cluster]:
    """8 nodes at 400 Mbit/s, a shared file system without costs."""
    if attached := os.environ.get("MINISLURM_ATTACH"):
        yield Cluster(Layout(Path(attached)), RATE)
        return
    base = Path(tempfile.mkdtemp(prefix="minislurm-"))
    try:
        done = minislurm(base, "up", "--nodes", str(NODES), "--rate", RATE)
        assert done.returncode == 0, done.stderr
        yield Cluster(Layout(base), RATE)
    finally:
        take_down(base)


@pytest.fixture
def vine(cluster: Cluster, request: pytest.FixtureRequest) -> Cluster:
    """The cluster, for tests that need the project installed on it."""
    if not cluster.has_vine:
        skip("the project is not installed: nothing for `make install`")
    USED[request.module.__name__] = cluster
    return cluster


@pytest.fixture(autouse=True)
def nothing_drained(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test on the cluster all nodes are idle and no job is left."""
    yield
    if "cluster" not in request.fixturenames:
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    cluster.restore()
    why = cluster.settle()
    assert not why, f"20 s after the test the cluster is not idle:\n{why}"


@pytest.fixture(scope="module", autouse=True)
def no_lease_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each file of tests no daemon keeps anything for a job that has ended."""
    yield
    if cluster := USED.pop(request.module.__name__, None):

        def left() -> dict[str, list[Any]]:
            jobs = {node: cluster.status(node)["jobs"] for node in cluster.nodes}
            return {node: of for node, of in jobs.items() if of}

        deadline = time.monotonic() + 20
        while found := left():
            assert time.monotonic() < deadline, f"leases 20 s after the tests: {found}"
            time.sleep(0.5)
