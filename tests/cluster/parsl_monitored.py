"""A user's Parsl script with monitoring: the same tasks with vine-env and without.

    parsl_monitored.py ENV NODES PACKAGES FOLDER

Two blocks of NODES nodes run from ENV, a third one reads it as ever. Each is a job of
its own, on nodes of its own. Parsl writes FOLDER/runinfo/monitoring.db. Prints one JSON
document: each block's job, and a row a task.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from typing import Any

import parsl
from parsl.app.app import python_app
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.launchers import SrunLauncher
from parsl.monitoring import MonitoringHub
from vine_env import VineSlurmProvider

START_SECONDS = 120
TASK_SECONDS = {"vine": 0.3, "plain": 1.0}  # to be told apart on the page
BLOCKS = {"vine": 2, "plain": 1}
PARSL = "parsl.executors.high_throughput"


def look(seconds: float) -> dict[str, Any]:
    import os
    import socket
    import time

    time.sleep(seconds)
    return {"node": socket.gethostname(), "job": os.environ["SLURM_JOB_ID"]}


def executor(
    label: str, env: str, nodes: int, packages: str, **vine: Any
) -> HighThroughputExecutor:
    made = HighThroughputExecutor(
        label=label,
        address=socket.gethostbyname(socket.gethostname()),
        max_workers_per_node=1,
        interchange_launch_cmd=[sys.executable, "-m", f"{PARSL}.interchange"],
        provider=VineSlurmProvider(
            nodes_per_block=nodes,
            init_blocks=BLOCKS[label],
            max_blocks=BLOCKS[label],
            walltime="00:05:00",
            worker_init=f'source "{env}/bin/activate"\nexport PYTHONPATH={packages}',
            launcher=SrunLauncher(),
            **vine,
        ),
    )
    made.launch_cmd = made.launch_cmd.replace(
        "process_worker_pool.py", f"python -m {PARSL}.process_worker_pool"
    )
    return made


def run_until_all_worked(
    executors: list[HighThroughputExecutor], nodes: int
) -> list[dict[str, Any]]:
    """Nodes start one after the other; who is first would do all of a few tasks."""
    apps = {e.label: python_app(look, executors=[e.label]) for e in executors}
    end = time.monotonic() + START_SECONDS
    rows: list[dict[str, Any]] = []
    seen: set[tuple[str, str]] = set()
    while len(seen) < nodes * sum(BLOCKS.values()):
        assert time.monotonic() < end, f"only {seen} have worked"
        futures = [
            (label, app(TASK_SECONDS[label]))
            for label, app in apps.items()
            for _ in range(2 * nodes * BLOCKS[label])
        ]
        rows += [
            f.result(timeout=START_SECONDS) | {"by": label} for label, f in futures
        ]
        seen = {(row["job"], row["node"]) for row in rows}
    return rows


def main() -> None:
    env, nodes, packages, folder = sys.argv[1:]
    os.chdir(folder)
    both = [
        executor("vine", env, int(nodes), packages, vine_env=env, vine_fallback="fail"),
        executor("plain", env, int(nodes), packages),
    ]
    config = Config(
        executors=both,
        monitoring=MonitoringHub(resource_monitoring_interval=0.5),
        initialize_logging=False,
        strategy="none",
    )
    with parsl.load(config):
        rows = run_until_all_worked(both, int(nodes))
        jobs = {e.label: sorted(e.job_ids_to_block) for e in both}
    print(json.dumps({"jobs": jobs, "tasks": rows}))


if __name__ == "__main__":
    main()
