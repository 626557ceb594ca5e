"""The demo's Parsl script: train a small model on each share of a data set.

Run by a user on a node of the cluster, as any Parsl script. It prints one JSON
document: the workflow's start and end and a record of each task. With --vine-env the
one line `#SBATCH --vine-env=...` is added to the job; nothing else changes.

Each task is a fresh Python interpreter that imports numpy, pandas and scikit-learn, as
a program started for each task does (Parsl's bash_app is the usual form): a worker that
kept its interpreter would show the cost of an import once a node and hide it 56 times
of 64.
"""

import argparse
import json
import os
import socket
import sys
import time
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

import parsl
from parsl.app.app import python_app
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.launchers import SrunLauncher
from parsl.providers import SlurmProvider

RUN_TIMEOUT_S = 300


@python_app
def train(program: str, share: int, shares: int) -> dict[str, Any]:
    """Run `program` for one share in an interpreter of the environment."""
    import json
    import os
    import subprocess
    import time

    begin = time.time()
    python = os.path.join(os.environ["VIRTUAL_ENV"], "bin", "python")
    command = [python, "-c", program, str(share), str(shares)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"share {share}: {done.stderr[-2000:]}")
    return json.loads(done.stdout) | {"begin": begin, "end": time.time()}


def config(args: argparse.Namespace) -> Config:
    options = f"#SBATCH --vine-env={args.vine_env}" if args.vine_env else ""
    return Config(
        executors=[
            HighThroughputExecutor(
                label="vine",
                address=socket.gethostbyname(socket.gethostname()),
                max_workers_per_node=args.workers,
                # By its interpreter: the script's own environment may have been moved.
                interchange_launch_cmd=[
                    sys.executable,
                    str(Path(sys.executable).with_name("interchange.py")),
                ],
                provider=SlurmProvider(
                    nodes_per_block=args.nodes,
                    exclusive=True,
                    walltime="00:10:00",
                    scheduler_options=options,
                    worker_init=f"source {args.env}/bin/activate\n"
                    "export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1",
                    launcher=SrunLauncher(),
                ),
            )
        ],
        run_dir=args.run_dir,
        initialize_logging=False,
        strategy="none",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    program = Path(__file__).with_name("train.py").read_text()
    start = time.time()
    tasks: list[dict[str, Any]] = []
    with parsl.load(config(args)):
        futures = [train(program, i, args.tasks) for i in range(args.tasks)]
        for future in as_completed(futures, timeout=RUN_TIMEOUT_S):
            tasks.append(future.result() | {"done": time.time()})
        end = time.time()
    return {"start": start, "end": end, "tasks": tasks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--env", required=True, help="the environment's directory")
    parser.add_argument("--vine-env", help="value of the job's --vine-env option")
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--workers", type=int, default=1, help="workers a node")
    parser.add_argument("--tasks", type=int, default=64)
    parser.add_argument("--run-dir", required=True, help="for Parsl's own files")
    args = parser.parse_args()
    os.makedirs(args.run_dir, exist_ok=True)
    json.dump(run(args), sys.stdout)
    print()


if __name__ == "__main__":
    main()
