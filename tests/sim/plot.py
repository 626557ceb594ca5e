"""Makespan over the optimum against the number of nodes, from makespans.json.

build/sim --bench --json > tests/sim/makespans.json
build/venv/bin/python tests/sim/plot.py
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

HERE = Path(__file__).resolve().parent


def main() -> None:
    runs = json.loads((HERE / "makespans.json").read_text())
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for shape in dict.fromkeys(run["shape"] for run in runs):
        points = [run for run in runs if run["shape"] == shape]
        axes.plot(
            [run["nodes"] for run in points],
            [run["over_optimum"] for run in points],
            marker="o",
            label=shape,
        )
    axes.axhline(1.05, color="grey", linestyle=":", label="1.05")
    axes.set_xscale("log", base=2)
    axes.set_xlabel("receivers")
    axes.set_ylabel("makespan over the optimum")
    axes.legend()
    figure.tight_layout()
    figure.savefig(HERE / "makespans.png", dpi=110)


if __name__ == "__main__":
    main()
