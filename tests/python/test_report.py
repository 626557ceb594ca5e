"""vine_env.report: Parsl's monitoring database joined with a job's transfer log."""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path

import pytest
from vine_env import report

START = "2026-11-20 10:00:"
FAKE = """#!{python}
import json, sys
if "--json" in sys.argv:
    story = {{"node": "n1", "wanted_ms": 0}}
    print(json.dumps({{"job": sys.argv[2], "stories": [story]}}))
else:
    times = json.load(open(sys.argv[sys.argv.index("--tasks") + 1]))
    open(sys.argv[sys.argv.index("-o") + 1], "w").write(json.dumps(times))
"""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """The columns of Parsl's own tables that matter here."""
    path = tmp_path / "monitoring.db"
    with sqlite3.connect(path) as db:
        db.execute(
            "CREATE TABLE try (try_id INTEGER, task_id INTEGER, run_id TEXT,"
            " block_id TEXT, hostname TEXT, task_executor TEXT,"
            " task_try_time_launched DATETIME, task_try_time_running DATETIME,"
            " task_try_time_returned DATETIME)"
        )
        db.execute(
            "CREATE TABLE block (run_id TEXT, executor_label TEXT, block_id TEXT,"
            " job_id TEXT, timestamp DATETIME, status TEXT)"
        )
        blocks = [("0", None, "PENDING"), ("0", "7", "PENDING"), ("0", "7", "RUNNING")]
        for block, job, status in [*blocks, ("1", "8", "RUNNING")]:
            row = ("r", "htex", block, job, START + "00.000000", status)
            db.execute("INSERT INTO block VALUES (?,?,?,?,?,?)", row)
        tries = [
            (0, "0", "n1", "01.000000", "03.500000"),
            (1, "0", "n2", "01.000000", None),  # it never came back
            (2, "1", "n1", "01.000000", "09.000000"),  # another job's block
            (3, None, "n1.cluster", "02.000000", "03.000000"),  # by its host
            (4, None, "elsewhere", "02.000000", "30.000000"),
        ]
        for task, block, host, running, returned in tries:
            end = returned and START + returned
            row = (0, task, "r", block, host, "htex", None, START + running, end)
            db.execute("INSERT INTO try VALUES (?,?,?,?,?,?,?,?,?)", row)
    return path


def test_tasks_are_found_by_job_and_host(database: Path) -> None:
    assert report.task_seconds(database, "7") == [2.5]
    assert report.task_seconds(database, "7", {"n1"}) == [2.5, 1.0]
    assert report.task_seconds(database, "7", {"n1"}, since=4e9) == [2.5]
    assert report.task_seconds(database, "8") == [8.0]
    assert report.task_seconds(database, "9") == []


def test_the_page_gets_both_groups(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "vine-env"
    program.write_text(FAKE.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setattr(report, "PROGRAM", str(program))
    words = ["--parsl-monitoring", str(database), "--job", "7", "--before", "8"]
    assert report.main([*words, "-o", str(tmp_path / "page")]) == 0
    told = json.loads((tmp_path / "page").read_text())
    assert told == {"before": [8.0], "after": [2.5, 1.0]}


def test_a_database_that_is_written_to_is_no_other_database(database: Path) -> None:
    with sqlite3.connect(database, isolation_level=None) as writer:
        writer.execute("PRAGMA locking_mode=EXCLUSIVE")
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(report.ReportError, match="is being written to"):
            report.task_seconds(database, "7")


def test_jobs_are_listed(
    database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--parsl-monitoring", str(database)]
    assert report.main(words) == 0
    told = capsys.readouterr()
    assert told.out == f"jobs in '{database}': 7 (1 tasks), 8 (1 tasks)\n"
    assert report.main(["--parsl-monitoring", str(tmp_path / "no.db")]) == 1
    told = capsys.readouterr()
    assert told.out == "" and "no monitoring database" in told.err


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--job", "7"], "go together"),
        (["-o", "page"], "go together"),
        (["--before", "7"], "--before needs --job"),
    ],
)
def test_a_call_that_says_too_little(
    more: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        report.main(["--parsl-monitoring", "monitoring.db", *more])
    assert end.value.code == 2
    assert why in capsys.readouterr().err


def test_a_job_that_is_not_in_the_database(
    database: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = tmp_path / "vine-env"
    story = '{"stories": [{"node": "n9", "wanted_ms": 0}]}'
    program.write_text(f"#!/bin/sh\necho '{story}'\n")
    program.chmod(0o755)
    monkeypatch.setattr(report, "PROGRAM", str(program))
    words = ["--parsl-monitoring", str(database), "--job", "9", "-o", "page"]
    assert report.main(words) == 1
    assert "job 9; jobs in it: 7 (1 tasks), 8 (1 tasks)" in capsys.readouterr().err


def test_what_is_missing_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "PROGRAM", str(tmp_path / "none"))
    words = ["--job", "7", "-o", str(tmp_path / "page"), "--parsl-monitoring"]
    assert report.main([*words, str(tmp_path / "no.db")]) == 1
    assert "cannot run" in capsys.readouterr().err
    with pytest.raises(report.ReportError, match="no monitoring database"):
        report.task_seconds(tmp_path / "no.db", "7")
    (tmp_path / "text.db").write_text("hello" * 1000)
    with pytest.raises(report.ReportError, match="no database of Parsl's"):
        report.task_seconds(tmp_path / "text.db", "7")
