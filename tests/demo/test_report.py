"""The demo computes its figures right, and fails when a run does not show its point."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "demo"))
import report  # noqa: E402

IMAGE = 1000
NODES = 4
TASKS = 8


def run(name, origin=0, peer=0):
    system = "fuse.pfs" if name == "shared-fs" else "squashfs"
    tasks = [
        {
            "share": i,
            "node": f"n{i % NODES + 1}",
            "begin": 110.0 + i,
            "end": 111.0 + 2 * i,
            "done": 111.5 + 2 * i,
            "numpy_file_system": system,
        }
        for i in range(TASKS)
    ]
    return {
        "name": name,
        "start": 100.0,
        "end": 130.0,
        "tasks": tasks,
        "pfs_metadata_ops": 7,
        "pfs_bytes": 70,
        "peer_bytes": peer,
        "origin_bytes": origin,
    }


def faults(*results):
    summary = {
        "nodes": NODES,
        "link_bits_per_s": 400e6,
        "env_files": 3,
        "env_bytes": 4000,
        "image_bytes": IMAGE,
        "runs": [report.summary_of_run(result) for result in results],
    }
    assert "| shared-fs" in report.table(summary)
    return report.verify(summary, list(results), TASKS)


@pytest.fixture
def good():
    cold = run("vine-env-cold", origin=IMAGE, peer=(NODES - 1) * IMAGE)
    return [run("shared-fs"), cold, run("vine-env-warm")]


def test_summary_counts_from_the_submission():
    summary = report.summary_of_run(run("shared-fs"))
    assert summary["seconds_to_first_task"] == 11.5
    assert summary["seconds_total"] == 30.0
    assert summary["mean_task_seconds"] == 4.5
    assert summary["p95_task_seconds"] == 7.65


def test_good_runs_have_no_fault(good):
    assert faults(*good) == []


@pytest.mark.parametrize(
    ("origin", "peer", "word"),
    [
        (1021, 3000, "from the origin"),
        (2000, 2000, "from the origin"),
        (1000, 2900, "peers moved"),
        (1000, 3100, "peers moved"),
        (0, 0, "peers moved"),
    ],
)
def test_cold_reads_once_and_shares_the_rest(good, origin, peer, word):
    good[1] |= {"origin_bytes": origin, "peer_bytes": peer}
    assert any(word in fault for fault in faults(*good))


@pytest.mark.parametrize("key", ["origin_bytes", "peer_bytes"])
def test_warm_moves_no_byte(good, key):
    good[2][key] = 1
    assert [fault[:5] for fault in faults(*good)] == ["warm:"]


def test_a_missing_task_is_a_fault(good):
    del good[0]["tasks"][3]
    assert any("7 of 8 tasks" in fault for fault in faults(*good))


def test_a_node_without_tasks_is_a_fault(good):
    for task in good[1]["tasks"]:
        task["node"] = "n1"
    assert any("['n1'] only" in fault for fault in faults(*good))


def test_a_task_that_fell_back_to_the_shared_file_system_is_a_fault(good):
    good[2]["tasks"][5]["numpy_file_system"] = "fuse.pfs"
    assert any("7 of 8 tasks imported" in fault for fault in faults(*good))


def test_the_table_goes_between_its_marks(good, tmp_path):
    begin, end = "<!-- demo table: begin -->", "<!-- demo table: end -->"
    document = tmp_path / "README.md"
    document.write_text(f"before\n\n{begin}\nstale\n{end}\n\nafter\n")
    summary = {"nodes": NODES, "link_bits_per_s": 400e6, "env_files": 3}
    summary |= {"env_bytes": 4000, "image_bytes": IMAGE}
    summary["runs"] = [report.summary_of_run(result) for result in good]
    report.put_table(summary, document)
    once = document.read_text()
    report.put_table(summary, document)
    assert document.read_text() == once
    assert once.startswith("before\n") and once.endswith("\nafter\n")
    assert "stale" not in once and "| vine-env-warm |" in once
