"""Tables from results.json: what was measured, what the model adds.

Usage: tables.py    puts what build/bench holds into tests/bench/figures and into the
                    README's section on performance
"""

from __future__ import annotations

import json
import shutil
import sys
from typing import Any

import results
from common import OUTPUT, PFS_COSTS, REPO, figure, markdown, median
from ways import WAYS

sys.path.append(str(REPO / "demo"))

from report import put_between  # noqa: E402

FIGURES = REPO / "tests/bench/figures"
# T. S. Phung, B. Clifford, K. Chard, D. Thain: Maximizing Data Utility for HPC Python
# Workflow Execution, HPPSS at SC23. Against reading from the shared file system.
PAPER = {"nodes": 256, "workflow": 1.48, "mean task": 1.79}
Rows = dict[results.Key, dict[str, float]]


def facts(found: dict[str, Any]) -> str:
    env = found["environment"]
    link = median(found["link_bytes_per_s"])
    return (
        f"{env['files']:,} files, {env['bytes'] / 1e6:.0f} MB; tar.gz"
        f" {env['archive_bytes'] / 1e6:.0f} MB, packed image"
        f" {env['image_bytes'] / 1e6:.0f} MB; links of {link * 8 / 1e6:.0f} Mbit/s"
        f" ({link / 1e6:.1f} MB/s, iperf3);"
        f" {found['machine']['cores']} cores for all nodes together"
    )


def seconds_table(middle: Rows, load: str = "stack") -> str:
    """Ways down, nodes across: the median, and how many rounds it is of."""
    nodes = sorted({n for _, n, w in middle if w == load})
    rows = []
    for way in WAYS:
        cells = [middle.get((way.name, n, load)) for n in nodes]
        if any(cells):
            rows.append([f"{way.name}: {way.title}", *map(seconds, cells)])
    return markdown(["seconds", *(f"N={n}" for n in nodes)], rows)


def seconds(row: dict[str, float] | None) -> str:
    if row is None:
        return ""
    few = "" if row["rounds"] > 2 else f" ({row['rounds']:.0f} x)"
    return figure(row["seconds"]) + few


def moved_table(middle: Rows, nodes: int) -> str:
    """What each way asked of the shared file system and of the links."""
    rows = []
    for way in WAYS:
        if row := middle.get((way.name, nodes, "stack")):
            rows.append(
                [
                    way.name,
                    f"{row['pfs_ops']:,.0f}",
                    f"{row['pfs_bytes'] / 1e6:,.1f}",
                    f"{row['link_bytes'] / 1e6:,.1f}",
                    f"{row['peer_bytes'] / 1e6:,.1f}",
                    figure(row["seconds_to_last_task"]),
                    figure(row["import_seconds"]),
                ]
            )
    header = "/pfs metadata ops", "/pfs MB", "links MB", "of it vine-env peers MB"
    last = "last task begins s", "an import s"
    return markdown([f"N={nodes}", *header, *last], rows)


def model_table(model: dict[str, Any]) -> str:
    nodes = sorted({p["nodes"] for p in model["points"]})
    rows = []
    for way in dict.fromkeys(p["way"] for p in model["points"]):
        mine = [p for p in model["points"] if p["way"] == way]
        ordered = [p for n in nodes for p in mine if p["nodes"] == n]
        cells = [figure(p["seconds"]) for p in ordered]
        rows.append([way, *cells, *(f"{p['pfs_ops']:,.0f}" for p in ordered)])
    header = ["simulated", *(f"s at N={n:,}" for n in nodes)]
    header += [f"/pfs ops at N={n:,}" for n in nodes]
    return markdown(header, rows)


def check_table(model: dict[str, Any]) -> str:
    nodes = sorted({c["nodes"] for c in model["check"]})
    rows = []
    for way in dict.fromkeys(c["way"] for c in model["check"]):
        mine = {c["nodes"]: c for c in model["check"] if c["way"] == way}
        rows.append([way, *(error(mine.get(n)) for n in nodes)])
    return markdown(["modelled over measured", *(f"N={n}" for n in nodes)], rows)


def error(point: dict[str, Any] | None) -> str:
    if point is None:
        return ""
    return f"{100 * (point['modelled'] / point['measured'] - 1):+.0f} %"


def beside_the_paper(model: dict[str, Any]) -> str:
    """Ours is the start of a job, theirs are whole workflows and tasks."""
    nodes = PAPER["nodes"]
    at = {p["way"]: p["seconds"] for p in model["points"] if p["nodes"] == nodes}
    even = {int(n): rate for n, rate in model["break_even"].items()}[nodes]
    return (
        f"At {nodes} nodes the model has direct at {figure(at['direct'])} s and a cold"
        f" vine-env at {figure(at['vine-cold'])} s, a ratio of"
        f" {figure(at['direct'] / at['vine-cold'])} for the start of a job. A file"
        f" system that served {figure(even)} metadata operations a second instead of"
        f" {PFS_COSTS['mds_ops']:,} would make both equal. Published for"
        f" TaskVine with Parsl against reading from the shared file system, {nodes}"
        " nodes, 2,048 tasks, 4.4 GB:"
        f" {PAPER['workflow']} x in the workflow's time and {PAPER['mean task']} x in"
        " the mean task's time, computing included (Phung, Clifford, Chard, Thain,"
        " HPPSS at SC23)."
    )


def document(found: dict[str, Any]) -> str:
    """build/bench/table.md."""
    middle = results.medians(found["samples"])
    parts = [facts(found), seconds_table(middle)]
    most = [n for w, n, load in middle if load == "stack" and w == "direct"]
    parts += [moved_table(middle, n) for n in sorted({min(most), max(most)})]
    if any(load == "json" for _, _, load in middle):
        parts += ["Importing only json:", seconds_table(middle, "json")]
    if model := found.get("model"):
        parts += [model_table(model), beside_the_paper(model), check_table(model)]
    return "\n\n".join(parts) + "\n"


def publish() -> None:
    """The medians and the picture into the repository, the table into README.md."""
    found = results.load()
    middle = results.medians(found["samples"])
    FIGURES.mkdir(exist_ok=True)
    kept = {key: value for key, value in found.items() if key != "samples"}
    kept["medians"] = [
        {"way": way, "nodes": nodes, "workload": load, **row}
        for (way, nodes, load), row in sorted(middle.items())
    ]
    (FIGURES / "medians.json").write_text(json.dumps(kept, indent=1) + "\n")
    shutil.copy(OUTPUT / "bench.png", FIGURES / "bench.png")
    put_between(REPO / "README.md", "bench table", readme(found, middle))


def against(middle: Rows, nodes: int, load: str, names: list[str]) -> str:
    """ "direct 15.3 s, vine-cold 4.5 s": what there is of it, slow or fast."""
    found = [(name, middle.get((name, nodes, load))) for name in names]
    return ", ".join(f"{name} {figure(row['seconds'])} s" for name, row in found if row)


def does_not_pay(found: dict[str, Any], middle: Rows) -> str:
    """Said with the same figures as the rest."""
    packing = figure(found["environment"]["pack_seconds"])
    packed = ["direct", "vine-cold", "vine-warm"]
    plain = ["direct", "vine-dir-cold", "vine-dir-warm"]
    lines = {
        "Little is imported (only json), 8 nodes": against(middle, 8, "json", packed),
        "The same on one node": against(middle, 1, "json", packed),
        "One node, the whole stack": against(middle, 1, "stack", packed),
        "One node, the plain directory": against(middle, 1, "stack", plain),
        "8 nodes, the plain directory": against(middle, 8, "stack", plain),
    }
    items = [f"- {what}: {figures}." for what, figures in lines.items() if figures]
    return "\n".join(
        [
            "Where it does not pay, or not at once:",
            "",
            *items,
            f"- Packing the image took {packing} s. It is done once a version.",
        ]
    )


def readme(found: dict[str, Any], middle: Rows) -> str:
    parts = [facts(found), seconds_table(middle), does_not_pay(found, middle)]
    if model := found.get("model"):
        parts.append(beside_the_paper(model))
    return "\n" + "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    publish()
