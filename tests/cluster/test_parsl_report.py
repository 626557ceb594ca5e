"""vine_env.report with the database that Parsl's own monitoring has written."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, Result, skip
from environments import make_environment
from parsl_user import USER, install_packages, result_of, start_script
from test_report import Page, stories_of

NODES = 2  # of each of the three blocks
TRIES = """
SELECT DISTINCT b.job_id, t.hostname, t.task_executor
FROM try AS t LEFT JOIN block AS b
  ON (b.run_id, b.block_id, b.executor_label)
   = (t.run_id, t.block_id, t.task_executor) AND b.job_id IS NOT NULL
"""


@dataclass(frozen=True)
class Run:
    """A workflow that has ended, and where its Parsl wrote what it saw."""

    packages: str
    folder: str  # as the user names it
    seen_here: Path  # the same folder, from outside of the cluster
    jobs: dict[str, list[str]]  # by executor
    tasks: list[dict[str, Any]]

    def count(self, job: str) -> int:
        return sum(task["job"] == job for task in self.tasks)

    def nodes(self, job: str) -> set[str]:
        return {task["node"] for task in self.tasks if task["job"] == job}


@pytest.fixture(scope="module")
def run(cluster: Cluster) -> Iterator[Run]:
    if not cluster.has_vine:
        skip("the project is not installed: nothing for `make install`")
    packages = install_packages(cluster)
    env = make_environment(cluster)
    folder = f"/home/{USER}/monitored"
    cluster.run("n1", "mkdir", folder, user=USER)
    words = [env.path, str(NODES), packages, folder]
    try:
        found = result_of(start_script(cluster, packages, "parsl_monitored.py", *words))
        for job in found["jobs"]["vine"]:
            stories_of(cluster, int(job), NODES)
        home = cluster.layout.home / USER / "monitored"
        yield Run(packages, folder, home, found["jobs"], found["tasks"])
    finally:
        cluster.run("n1", "rm", "-rf", folder)


def call_report(vine: Cluster, run: Run, database: str, *words: str) -> Result:
    """As the user calls it, in the folder the workflow was started in."""
    python = ["env", f"PYTHONPATH={run.packages}", "/usr/bin/python3"]
    module = ["-m", "vine_env.report", "--parsl-monitoring", database]
    script = 'cd "$0" && exec "$@"'
    call = ["sh", "-c", script, run.folder, *python, *module, *words]
    return vine.run("n1", *call, user=USER, check=False)


def make_report(vine: Cluster, run: Run, database: str, *words: str) -> Result:
    return call_report(vine, run, database, *words, "-o", "page.html")


def counts(run: Run) -> dict[str, int]:
    """How many tasks of each group the page has."""
    page = Page((run.seen_here / "page.html").read_text())
    words = " ".join(page.text.split())
    return {
        group: int(number)
        for group, number in re.findall(r"(with|without) vine-env (\d+) tasks", words)
    }


def test_parsl_noted_each_tasks_job_and_host(vine: Cluster, run: Run) -> None:
    """All that the join needs is in its tables, as the tasks themselves saw it."""
    with closing(sqlite3.connect(run.seen_here / "runinfo/monitoring.db")) as db:
        noted = set(db.execute(TRIES))
        tries = db.execute("SELECT count(*) FROM try").fetchone()[0]
    assert noted == {(t["job"], t["node"], t["by"]) for t in run.tasks}
    assert tries == len(run.tasks)
    assert Counter(map(len, run.jobs.values())) == {2: 1, 1: 1}
    together = [
        node for jobs in run.jobs.values() for j in jobs for node in run.nodes(j)
    ]
    assert len(set(together)) == len(together) == 3 * NODES


def test_a_block_is_joined_by_its_job(vine: Cluster, run: Run) -> None:
    """Each of two blocks with vine-env, against the one without."""
    (plain,) = run.jobs["plain"]
    database = "runinfo/monitoring.db"
    for job in run.jobs["vine"]:
        make_report(vine, run, database, "--job", job, "--before", plain).checked()
        assert counts(run) == {"with": run.count(job), "without": run.count(plain)}
        page = Page((run.seen_here / "page.html").read_text())
        words = " ".join(page.text.split())
        halves = re.findall(r"half of them within ([\d.]+) s", words)
        # Those without took a second, those with it a third of one.
        assert float(halves[0]) >= 1.0 > float(halves[1]) >= 0.3
        stories = {s["node"] for s in stories_of(vine, int(job), NODES)}
        assert stories == run.nodes(job)
    listed = call_report(vine, run, database).checked().out
    for job in [*run.jobs["vine"], plain]:
        assert f"{job} ({run.count(job)} tasks)" in listed
    nothing = make_report(vine, run, database, "--job", plain)
    assert nothing.code == 1
    assert f"has nothing of job {plain}" in nothing.err


def test_without_a_block_it_is_joined_by_its_host(vine: Cluster, run: Run) -> None:
    """Executors without blocks note none; all else of the database is real."""
    copy = run.seen_here / "by-host.db"
    shutil.copy(run.seen_here / "runinfo/monitoring.db", copy)
    copy.chmod(0o644)
    with closing(sqlite3.connect(copy)) as db, db:
        db.execute("UPDATE try SET block_id = NULL")
    for job in run.jobs["vine"]:
        make_report(vine, run, "by-host.db", "--job", job).checked()
        assert counts(run) == {"with": run.count(job)}


def test_a_database_that_is_written_to(vine: Cluster, run: Run) -> None:
    busy = run.seen_here / "busy.db"
    shutil.copy(run.seen_here / "runinfo/monitoring.db", busy)
    busy.chmod(0o644)
    with closing(sqlite3.connect(busy, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        told = make_report(vine, run, "busy.db", "--job", run.jobs["vine"][0])
    assert told.code == 1
    assert "is being written to" in told.err
