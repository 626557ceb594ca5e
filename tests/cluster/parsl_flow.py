"""A user's Parsl script: each task says where it ran and what it ran from.

    parsl_flow.py ENV DATA NODES TASKS PACKAGES

Prints one JSON document: what doctor found, and a row a task.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import Any

import parsl
from parsl.app.app import python_app
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.launchers import SrunLauncher
from vine_env import VineSlurmProvider, doctor

RUN_TIMEOUT_S = 120
PARSL = "parsl.executors.high_throughput"


@python_app
def look(env: str, data: str) -> dict[str, Any]:
    """In a worker, whose interpreter is the environment's."""
    import socket
    import sys
    import time

    import hello

    time.sleep(0.2)  # or one worker takes all tasks
    with open("/proc/self/mountinfo") as file:
        mounts = [line.split() for line in file]

    def of(path: str) -> list[list[str]]:
        return [m for m in mounts if m[4] == path.replace(" ", "\\040")]

    with open(data) as file:
        line = file.readline()
    return {
        "node": socket.gethostname(),
        "prefix": sys.prefix,
        "word": hello.WORDS,
        "file": hello.__file__,
        "kinds": [m[m.index("-") + 1] for m in of(env)],
        "data": line,
        "data_mounts": len(of(data)),
    }


def config(env: str, data: str, nodes: int, packages: str) -> Config:
    here = socket.gethostbyname(socket.gethostname())
    executor = HighThroughputExecutor(
        label="vine",
        address=here,
        max_workers_per_node=2,
        interchange_launch_cmd=[sys.executable, "-m", f"{PARSL}.interchange"],
        provider=VineSlurmProvider(
            vine_env=env,
            vine_data=data,
            vine_fallback="fail",
            nodes_per_block=nodes,
            exclusive=False,
            walltime="00:05:00",
            worker_init=f'source "{env}/bin/activate"\nexport PYTHONPATH={packages}',
            launcher=SrunLauncher(),
        ),
    )
    executor.launch_cmd = executor.launch_cmd.replace(
        "process_worker_pool.py", f"python -m {PARSL}.process_worker_pool"
    )
    return Config(
        executors=[executor],
        run_dir=os.path.expanduser("~/parsl-runs"),
        initialize_logging=False,
        strategy="none",
    )


def main() -> None:
    env, data, nodes, tasks, packages = sys.argv[1:]
    chosen = config(env, data, int(nodes), packages)
    said = [str(finding) for finding in doctor(chosen)]
    with parsl.load(chosen):
        futures = [look(env, data) for _ in range(int(tasks))]
        rows = [future.result(timeout=RUN_TIMEOUT_S) for future in futures]
    print(json.dumps({"doctor": said, "tasks": rows}))


if __name__ == "__main__":
    main()
