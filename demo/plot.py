"""The distribution of the tasks' times, run by run, as a picture.

Usage: plot.py build/demo/tasks.json OUT.png (run.py calls draw() itself)
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from report import percentile, task_seconds  # noqa: E402

COLOURS = {
    "shared-fs": "#b3452c",
    "vine-env-cold": "#2c6fb3",
    "vine-env-warm": "#2f8f5b",
}
OTHER = "#7a7a7a"


def draw_cumulative(axes: plt.Axes, results: list[dict[str, Any]]) -> None:
    """How many of the tasks took at most so long."""
    for index, run in enumerate(results):
        seconds = sorted(task_seconds(run))
        share = [100 * (i + 1) / len(seconds) for i in range(len(seconds))]
        colour = COLOURS.get(run["name"], OTHER)
        style = "-" if run["name"] in COLOURS else ["--", ":"][index % 2]
        axes.step(
            seconds, share, style, where="post", color=colour, lw=2, label=run["name"]
        )
    axes.set_xlabel("seconds a task took (interpreter start to end)")
    axes.set_ylabel("tasks done within, %")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 103)
    axes.legend(loc="lower right")


def draw_times(axes: plt.Axes, results: list[dict[str, Any]]) -> None:
    """Each task a dot: when it ended, and how long it took."""
    for run in results:
        ends = [task["end"] - run["start"] for task in run["tasks"]]
        colour = COLOURS.get(run["name"], OTHER)
        mark = "o" if run["name"] in COLOURS else "x"
        p95 = percentile(task_seconds(run), 95)
        label = f"{run['name']}, p95 {p95:.1f} s"
        axes.plot(
            ends, task_seconds(run), mark, color=colour, ms=4, alpha=0.8, label=label
        )
    axes.set_xlabel("seconds since the workflow began")
    axes.set_ylabel("seconds a task took")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper right")


def draw(results: list[dict[str, Any]], path: Path) -> None:
    plt.rcParams.update({"font.size": 11, "axes.grid": True, "grid.alpha": 0.3})
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
    nodes = len({task["node"] for run in results for task in run["tasks"]})
    tasks = len(results[0]["tasks"])
    figure.suptitle(
        f"{tasks} tasks on {nodes} nodes, each importing numpy, pandas and scikit-learn"
    )
    draw_cumulative(left, results)
    draw_times(right, results)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
