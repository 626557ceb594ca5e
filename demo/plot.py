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
    "vine-env-directory-cold": "#8a7fc4",
    "vine-env-directory-warm": "#b59a3a",
}


def draw_cumulative(axes: plt.Axes, results: list[dict[str, Any]]) -> None:
    """How many of the tasks took at most so long. Names the colours for all."""
    for run in results:
        seconds = sorted(task_seconds(run))
        share = [100 * (i + 1) / len(seconds) for i in range(len(seconds))]
        label = f"{run['name']} (95 % within {percentile(seconds, 95):.1f} s)"
        colour = COLOURS[run["name"]]
        axes.step(seconds, share, where="post", color=colour, lw=2, label=label)
    axes.set_xlabel("seconds a task took, from its interpreter's start to its end")
    axes.set_ylabel("tasks that took no longer, %")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 103)


def draw_times(axes: plt.Axes, results: list[dict[str, Any]]) -> None:
    """Each task a dot: when it ended, and how long it took."""
    for run in results:
        ends = [task["end"] - run["start"] for task in run["tasks"]]
        colour = COLOURS[run["name"]]
        axes.plot(ends, task_seconds(run), "o", color=colour, ms=5, alpha=0.7)
    axes.set_xlabel("when the task ended, seconds since the workflow began")
    axes.set_ylabel("seconds the task took")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)


def draw(results: list[dict[str, Any]], path: Path) -> None:
    plt.rcParams.update({"font.size": 11, "axes.grid": True, "grid.alpha": 0.3})
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5.6), layout="constrained")
    nodes = len({task["node"] for run in results for task in run["tasks"]})
    tasks = len(results[0]["tasks"])
    figure.suptitle(
        f"{tasks} tasks on {nodes} nodes, each a new Python that imports"
        " numpy, pandas and scikit-learn"
    )
    draw_cumulative(left, results)
    draw_times(right, results)
    figure.legend(loc="outside lower center", ncols=min(3, len(results)))
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
