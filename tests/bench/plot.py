"""bench.png: seconds against nodes, shared file system operations against nodes.

Usage: plot.py results.json OUT.png (startup.py calls draw() itself)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import FuncFormatter, NullLocator  # noqa: E402
from results import medians  # noqa: E402
from ways import WAYS  # noqa: E402

COLOURS = {
    "direct": "#b3452c",
    "sbcast-untar": "#c98a1b",
    "sbcast-mount": "#8a7a52",
    "vine-cold": "#1f5fa8",
    "vine-warm": "#2f8f5b",
    "vine-update": "#13a3a3",
    "vine-lazy": "#7a4fc4",
    "vine-dir-cold": "#7fa6d6",
    "vine-dir-warm": "#8fc7a5",
}
MARKERS = dict(zip(COLOURS, "osDovP^XX", strict=True))


def lines(found: dict[str, Any], figure: str) -> dict[str, tuple[list, list]]:
    """Of each way: what was measured and what the model adds, as (nodes, value)."""
    middle = medians(found["samples"])
    model = found.get("model") or {"points": []}
    drawn = {}
    for way in (w.name for w in WAYS):
        measured = sorted(
            (n, row[figure])
            for (w, n, load), row in middle.items()
            if (w, load) == (way, "stack")
        )
        added = sorted(
            (p["nodes"], p[figure]) for p in model["points"] if p["way"] == way
        )
        if measured:
            drawn[way] = (measured, added)
    return drawn


def draw_panel(axes: plt.Axes, found: dict[str, Any], figure: str) -> None:
    titles = {way.name: way.title for way in WAYS}
    for way, (measured, added) in lines(found, figure).items():
        style = {"color": COLOURS[way], "marker": MARKERS[way], "ms": 6, "lw": 1.8}
        axes.plot(*zip(*measured, strict=True), label=full_title(way, titles), **style)
        if added:
            style |= {"ls": "--", "lw": 1.2, "mfc": "white"}
            # Seconds have a step here: simulated nodes have cores of their own.
            joined = added if figure == "seconds" else [measured[-1], *added]
            every = slice(len(joined) - len(added), None)
            axes.plot(*zip(*joined, strict=True), markevery=every, **style)


def full_title(way: str, titles: dict[str, str]) -> str:
    return f"{way}: {titles[way]}"


def spread_bars(axes: plt.Axes, found: dict[str, Any]) -> None:
    """From the fastest to the slowest round."""
    for (way, nodes, load), row in medians(found["samples"]).items():
        if load == "stack":
            ends = (row["seconds_min"], row["seconds_max"])
            axes.plot([nodes, nodes], ends, color=COLOURS[way], lw=3, alpha=0.35)


def finish_axes(axes: plt.Axes, nodes: list[int], label: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(nodes, [f"{n:,}" for n in nodes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("nodes")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    measured = [n for n in nodes if n <= 64]
    if measured != nodes:
        edge = (measured[-1] * min(n for n in nodes if n > 64)) ** 0.5
        axes.axvspan(edge, nodes[-1] * 1.4, color="#888888", alpha=0.08, lw=0)
        axes.set_xlim(nodes[0] / 1.4, nodes[-1] * 1.4)
        place = {"transform": axes.get_xaxis_transform(), "va": "top", "fontsize": 9}
        note = "simulated: each node\nhas cores of its own"
        axes.text(edge * 1.1, 0.985, note, color="#555555", **place)


def draw(found: dict[str, Any], path: Path) -> None:
    plt.rcParams.update({"font.size": 11})
    figure, (left, right) = plt.subplots(1, 2, figsize=(14, 7), layout="constrained")
    env = found["environment"]
    mbits = sorted(found["link_bytes_per_s"])[len(found["link_bytes_per_s"]) // 2] * 8
    figure.suptitle(
        "All nodes at once import numpy, scipy.stats, pandas, sklearn.ensemble and"
        f" matplotlib.pyplot\n{env['files']:,} files, {env['bytes'] / 1e6:.0f} MB;"
        f" image of {env['image_bytes'] / 1e6:.0f} MB; links of {mbits / 1e6:.0f}"
        f" Mbit/s; {found['machine']['cores']} cores for all measured nodes together"
    )
    draw_panel(left, found, "seconds")
    spread_bars(left, found)
    draw_panel(right, found, "pfs_ops")
    nodes = sorted({s["nodes"] for s in found["samples"] if s["workload"] == "stack"})
    nodes += sorted(
        {p["nodes"] for p in (found.get("model") or {"points": []})["points"]}
    )
    finish_axes(left, nodes, "seconds from job start to the last import done")
    finish_axes(right, nodes, "metadata operations on the shared file system")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
