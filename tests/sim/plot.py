"""Makespan over the optimum against the number of nodes.

makespans.json, drawn to makespans.png: what this tree does,

    build/sim --bench --json > tests/sim/makespans.json
    build/venv/bin/python tests/sim/plot.py

and candidates.json, drawn to candidates.png: the schedules that were compared (README).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

HERE = Path(__file__).resolve().parent
LIMIT = 1.05


def draw(axes: Axes, runs: list[dict[str, Any]], key: str, names: list[str]) -> None:
    """A line for each value in `names` of `key`: "nodes" against "over_optimum"."""
    for name in names:
        points = [run for run in runs if run[key] == name]
        axes.plot(
            [run["nodes"] for run in points],
            [run["over_optimum"] for run in points],
            marker="o",
            label=name,
        )
    axes.axhline(LIMIT, color="grey", linestyle=":", label=str(LIMIT))
    axes.set_xscale("log", base=2)
    axes.set_xlabel("receivers")


def values(runs: list[dict[str, Any]], key: str) -> list[str]:
    return list(dict.fromkeys(run[key] for run in runs))


def main() -> None:
    runs = json.loads((HERE / "makespans.json").read_text())
    figure, axes = pyplot.subplots(figsize=(7, 4))
    draw(axes, runs, "shape", values(runs, "shape"))
    axes.set_ylabel("makespan over the optimum")
    axes.legend()
    figure.tight_layout()
    figure.savefig(HERE / "makespans.png", dpi=110)

    runs = json.loads((HERE / "candidates.json").read_text())
    shapes, schedules = values(runs, "shape"), values(runs, "schedule")
    figure, panels = pyplot.subplots(1, len(shapes), figsize=(14, 4.2), sharey=True)
    for panel, shape in zip(panels, shapes, strict=True):
        here = [run for run in runs if run["shape"] == shape]
        draw(panel, here, "schedule", schedules)
        panel.set_title(shape)
    panels[0].set_ylabel("makespan over the optimum")
    panels[0].set_ylim(1, 1.7)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="lower center", ncols=4)
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    figure.savefig(HERE / "candidates.png", dpi=100)


if __name__ == "__main__":
    main()
