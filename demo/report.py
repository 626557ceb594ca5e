"""From the runs' records to figures, a table, and what must be true of them.

Usage: report.py build/demo/summary.json README.md     puts the table into the README
(run.py calls the functions itself)
"""

import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

Run = dict[str, Any]  # a run's record as run.py makes it, or its summary
MARGIN = 0.02  # manifests and retries; anything more is a second copy of something


def task_seconds(run: Run) -> list[float]:
    """Of each task: from the worker's start of its interpreter to that one's end."""
    return [task["end"] - task["begin"] for task in run["tasks"]]


def percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def summary_of_run(run: Run) -> Run:
    """Times count from the submission of the first task, before Slurm has a job."""
    seconds = task_seconds(run)
    return {
        "name": run["name"],
        "seconds_to_first_task": round(
            min(t["done"] for t in run["tasks"]) - run["start"], 2
        ),
        "seconds_total": round(run["end"] - run["start"], 2),
        "mean_task_seconds": round(statistics.mean(seconds), 3),
        "p95_task_seconds": round(percentile(seconds, 95), 3),
        "pfs_metadata_ops": run["pfs_metadata_ops"],
        "pfs_bytes": run["pfs_bytes"],
        "peer_bytes": run["peer_bytes"],
        "origin_bytes": run["origin_bytes"],
    }


COLUMNS = [
    ("run", "name", 1, "{}"),
    ("first task s", "seconds_to_first_task", 1, "{:.1f}"),
    ("all tasks s", "seconds_total", 1, "{:.1f}"),
    ("mean task s", "mean_task_seconds", 1, "{:.2f}"),
    ("p95 task s", "p95_task_seconds", 1, "{:.2f}"),
    ("/pfs metadata ops", "pfs_metadata_ops", 1, "{:,}"),
    ("/pfs MB", "pfs_bytes", 1e6, "{:,.1f}"),
    ("from peers MB", "peer_bytes", 1e6, "{:,.1f}"),
    ("from origin MB", "origin_bytes", 1e6, "{:,.1f}"),
]


def table(summary: Run) -> str:
    """Markdown, so that it can be pasted where it is talked about."""
    rows = [[title for title, _, _, _ in COLUMNS]]
    for run in summary["runs"] + summary.get("directory_runs", []):
        row = []
        for _, key, unit, form in COLUMNS:
            value = run[key]
            row.append(form.format(value if unit == 1 else value / unit))
        rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    rows.insert(1, ["-" * widths[0]] + ["-" * (w - 1) + ":" for w in widths[1:]])

    def line(row: list[str]) -> str:
        cells = [row[0].ljust(widths[0])]
        cells += [
            cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)
        ]
        return f"| {' | '.join(cells)} |"

    mbits = summary["link_bits_per_s"] / 1e6
    env, image = summary["env_bytes"] / 1e6, summary["image_bytes"] / 1e6
    facts = (
        f"{summary['nodes']} nodes, links of {mbits:.0f} Mbit/s; environment of"
        f" {summary['env_files']:,} files, {env:.0f} MB; image of {image:.0f} MB"
    )
    return "\n".join(["", facts, "", *map(line, rows), ""])


def verify_tasks(run: Run, nodes: int, tasks: int) -> list[str]:
    faults = []
    name, records = run["name"], run["tasks"]
    if sorted(t["share"] for t in records) != list(range(tasks)):
        faults.append(f"{name}: {len(records)} of {tasks} tasks done")
    if len({t["node"] for t in records}) != nodes:
        faults.append(
            f"{name}: tasks ran on {sorted({t['node'] for t in records})} only"
        )
    local = sum(t["numpy_file_system"] == "squashfs" for t in records)
    if local != (0 if name == "shared-fs" else tasks):
        faults.append(f"{name}: {local} of {tasks} tasks imported from a local image")
    return faults


def verify_bytes(summary: Run) -> list[str]:
    faults = []
    image = summary["image_bytes"]
    runs = {run["name"]: run for run in summary["runs"]}
    cold, warm = runs["vine-env-cold"], runs["vine-env-warm"]
    origin = cold["origin_bytes"]
    if origin > (1 + MARGIN) * image:
        faults.append(f"cold: {origin} bytes from the origin, the image has {image}")
    expected = (summary["nodes"] - 1) * image
    if abs(cold["peer_bytes"] - expected) > MARGIN * expected:
        faults.append(
            f"cold: peers moved {cold['peer_bytes']} bytes, not about {expected}"
        )
    if warm["peer_bytes"] or warm["origin_bytes"]:
        moved = (
            f"{warm['peer_bytes']} from peers, {warm['origin_bytes']} from the origin"
        )
        faults.append(f"warm: bytes moved: {moved}")
    return faults


def verify(summary: Run, results: list[Run], tasks: int) -> list[str]:
    """What is not as it must be, in words; [] if all is well."""
    faults = []
    for run in results:
        faults += verify_tasks(run, summary["nodes"], tasks)
    return faults + verify_bytes(summary)


def put_between(document: Path, mark: str, text: str) -> None:
    """Replace what the document has between the two comments that bear the mark."""
    marks = re.compile(rf"(<!-- {mark}: begin -->\n).*(<!-- {mark}: end -->)", re.S)
    whole, count = marks.subn(
        lambda match: f"{match[1]}{text}\n{match[2]}", document.read_text()
    )
    if count != 1:
        sys.exit(f"{document}: no marks '{mark}: begin' and 'end'")
    document.write_text(whole)


def put_table(summary: Run, document: Path) -> None:
    put_between(document, "demo table", table(summary))


if __name__ == "__main__":
    put_table(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
