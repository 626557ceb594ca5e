"""A job's transfer page with the times of Parsl's tasks in it.

    python3 -m vine_env.report --parsl-monitoring runinfo/monitoring.db --job JOBID \\
        [--before JOBID] -o report.html

Without --job it lists the Slurm jobs whose tasks are in the database.

Parsl's monitoring says which task ran when, in which block and on which host; the
transfer log says which Slurm job's nodes got which environment. Both are joined by the
job's number, and by the host's name where Parsl did not note the block. The page itself
is `vine-env report`'s.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

PROGRAM = "vine-env"

TRIES = """
SELECT DISTINCT t.run_id, t.task_id, t.try_id, t.task_try_time_running,
       t.task_try_time_returned, t.hostname, t.block_id, b.job_id
FROM try AS t LEFT JOIN block AS b
  ON b.run_id = t.run_id AND b.executor_label = t.task_executor
     AND b.block_id = t.block_id AND b.job_id IS NOT NULL
WHERE t.task_try_time_running IS NOT NULL AND t.task_try_time_returned IS NOT NULL
"""


class ReportError(Exception):
    """What is missing, and where; for the user."""


def _short(host: str | None) -> str:
    return (host or "").partition(".")[0]


def _rows(database: Path) -> list[Any]:
    if not database.is_file():
        raise ReportError(f"no monitoring database at '{database}'")
    try:
        uri = f"{database.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            return connection.execute(TRIES).fetchall()
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            raise ReportError(
                f"'{database}' is being written to: end the workflow, or copy the file "
                f"and name the copy ({error})"
            ) from error
        raise ReportError(f"cannot read '{database}': {error}") from error
    except sqlite3.Error as error:
        raise ReportError(f"'{database}' is no database of Parsl's: {error}") from error


def task_seconds(
    database: Path, job: str, hosts: Collection[str] = (), since: float = 0
) -> list[float]:
    """How long each task of a job ran, every try that came back by itself.

    `hosts` and `since` (seconds since 1970) are the job's: tries of which Parsl noted
    no block count if they ran on these hosts and began after that.
    """
    names = {_short(host) for host in hosts}
    seconds = []
    for _, _, _, running, returned, host, block, number in _rows(database):
        began, ended = datetime.fromisoformat(running), datetime.fromisoformat(returned)
        if block is None:
            mine = _short(host) in names and began.timestamp() >= since
        else:
            mine = number == job
        if mine and ended >= began:
            seconds.append((ended - began).total_seconds())
    return seconds


def jobs(database: Path) -> dict[str, int]:
    """Slurm jobs whose tasks came back, and how many of these, in the jobs' order."""
    found = Counter(str(row[-1]) for row in _rows(database) if row[-1] is not None)
    return dict(sorted(found.items(), key=lambda item: (len(item[0]), item[0])))


def _listed(database: Path) -> str:
    words = [f"{job} ({count} tasks)" for job, count in jobs(database).items()]
    return ", ".join(words) or "none"


def _stories(job: str) -> list[dict[str, Any]]:
    words = [PROGRAM, "report", job, "--json"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ReportError(f"cannot run {PROGRAM}: {error.strerror}") from error
    if done.returncode != 0:
        raise ReportError(done.stderr.strip())
    stories: list[dict[str, Any]] = json.loads(done.stdout)["stories"]
    return stories


def make(database: Path, job: str, before: Sequence[str], output: Path) -> None:
    """Write the page of `job`; tasks of the jobs `before` ran without vine-env."""
    stories = _stories(job)
    hosts = {story["node"] for story in stories}
    since = min(story["wanted_ms"] for story in stories) / 1000
    after = task_seconds(database, job, hosts, since)
    earlier = [s for number in before for s in task_seconds(database, number)]
    if not after and not earlier:
        raise ReportError(
            f"'{database}' has no finished task of job {job}; "
            f"jobs in it: {_listed(database)}"
        )
    with tempfile.NamedTemporaryFile("w", suffix=".json") as times:
        json.dump({"before": earlier, "after": after}, times)
        times.flush()
        words = [PROGRAM, "report", job, "--tasks", times.name, "-o", os.fspath(output)]
        if subprocess.run(words, check=False).returncode != 0:
            raise ReportError(f"{PROGRAM} report did not write '{output}'")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python3 -m vine_env.report",
        description="The page of `vine-env report` with the times of Parsl's tasks.",
    )
    parser.add_argument(
        "--parsl-monitoring", metavar="FILE", type=Path, required=True,
        help="Parsl's monitoring database, as runinfo/monitoring.db",
    )  # fmt: skip
    parser.add_argument(
        "--job", help="the Slurm job with vine-env; else jobs are listed"
    )
    parser.add_argument(
        "--before", metavar="JOB", action="append", default=[],
        help="a Slurm job without it, in the same database; may be repeated",
    )  # fmt: skip
    parser.add_argument("-o", "--output", metavar="FILE", type=Path)
    options = parser.parse_args(argv)
    if (options.job is None) != (options.output is None):
        parser.error("--job and --output go together; without both, jobs are listed")
    if options.job is None and options.before:
        parser.error("--before needs --job")
    try:
        if options.job is None:
            listed = _listed(options.parsl_monitoring)
            print(f"jobs in '{options.parsl_monitoring}': {listed}")
            return 0
        make(options.parsl_monitoring, options.job, options.before, options.output)
    except ReportError as error:
        print(f"vine_env.report: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
