"""A user's Parsl script whose tasks read and write Files.

    parsl_files.py share|chain JSON

share: `tasks` tasks read all of `inputs`. chain: first tasks write a File each, a
spread of them over the nodes; the script says what they did, waits for the file `go`
if one is named, and then `tasks` tasks read what one of the first has written, which
ran neither where this script runs nor where Slurm runs the job's own script.

Prints JSON documents; the last has a row a task.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from concurrent.futures import Future
from typing import Any

import parsl
from parsl.app.app import python_app
from parsl.config import Config
from parsl.data_provider.data_manager import default_staging
from parsl.data_provider.files import File
from parsl.executors import HighThroughputExecutor
from parsl.launchers import SrunLauncher
from vine_env import VineSlurmProvider, VineStaging, doctor

RUN_TIMEOUT_S = 240
PARSL = "parsl.executors.high_throughput"
# To hear of a dead node soon, and not of those that are only slow.
HEARTBEAT = {"heartbeat_period": 3, "heartbeat_threshold": 15}


@python_app
def read(seconds: float, inputs: Any = (), digest: bool = True) -> dict[str, Any]:
    """Says where it found its Files, and their digests; or sizes, which takes less."""
    import hashlib
    import socket
    import time

    found = []
    for one in inputs:
        sha256, size = hashlib.sha256(), 0
        with open(one, "rb", buffering=0) as file:
            while part := file.read(1 << 20):
                size += len(part)
                if digest:
                    sha256.update(part)
        found.append([one.filepath, sha256.hexdigest() if digest else size])
    time.sleep(seconds)
    return {"node": socket.gethostname(), "files": found, "ended": time.time()}


@python_app
def write(seconds: float, size: int, outputs: Any = ()) -> dict[str, Any]:
    import hashlib
    import os
    import socket
    import time

    content = os.urandom(size)
    with open(outputs[0], "wb") as file:
        file.write(content)
    time.sleep(seconds)
    return {
        "node": socket.gethostname(),
        "first": os.environ["SLURM_JOB_NODELIST"],
        "place": outputs[0].filepath,
        "digest": hashlib.sha256(content).hexdigest(),
    }


def config(wish: dict[str, Any]) -> Config:
    storage = list(default_staging)
    if wish["staging"] is not None:
        storage.insert(0, VineStaging(**wish["staging"]))
    executor = HighThroughputExecutor(
        label="vine",
        address=socket.gethostbyname(socket.gethostname()),
        max_workers_per_node=wish.get("workers", 1),
        interchange_launch_cmd=[sys.executable, "-m", f"{PARSL}.interchange"],
        storage_access=storage,
        provider=VineSlurmProvider(
            nodes_per_block=wish["nodes"],
            exclusive=False,
            walltime="00:08:00",
            scheduler_options=f"#SBATCH --no-kill {wish.get('options', '')}",
            worker_init=f"export PYTHONPATH={os.environ['PYTHONPATH']}",
            launcher=SrunLauncher(overrides="--no-kill --kill-on-bad-exit=0"),
        ),
        **HEARTBEAT,
    )
    executor.launch_cmd = executor.launch_cmd.replace(
        "process_worker_pool.py", f"{sys.executable} -m {PARSL}.process_worker_pool"
    )
    return Config(
        executors=[executor],
        run_dir=os.path.expanduser("~/parsl-runs"),
        initialize_logging=wish.get("logs", False),
        retries=wish.get("retries", 0),
        strategy="none",
    )


def row(future: Future[Any]) -> dict[str, Any]:
    try:
        found: dict[str, Any] = future.result(timeout=RUN_TIMEOUT_S)
        return found
    except Exception as error:
        return {"error": type(error).__name__, "text": str(error)}


def wait_workers(nodes: int) -> None:
    """Until each node has one, so that what is measured is not their start."""
    seen: set[str] = set()
    while len(seen) < nodes:
        futures = [read(0.3) for _ in range(2 * nodes)]
        seen |= {row(future)["node"] for future in futures}


def share(wish: dict[str, Any]) -> list[dict[str, Any]]:
    files = [File(path) for path in wish["inputs"]]
    seconds, digest = wish["seconds"], wish.get("digest", True)
    return [
        read(seconds, inputs=list(files), digest=digest) for _ in range(wish["tasks"])
    ]


def first_node(nodes: str) -> str:
    """Of "n[2-5,7]" or "n2,n3"."""
    head = nodes.partition(",")[0].replace("[", "").partition("-")[0]
    return head.rstrip("]")


def chain(wish: dict[str, Any]) -> list[dict[str, Any]]:
    here = socket.gethostname()
    urls = [f"{wish['top']}/out-{n}" for n in range(2 * wish["nodes"])]
    made = [write(0.5, wish["bytes"], outputs=[File(url)]) for url in urls]
    rows = [row(future) for future in made]
    chosen = next(
        n
        for n, one in enumerate(rows)
        if one["node"] not in (here, first_node(one["first"]))
    )
    print(json.dumps(rows[chosen] | {"url": urls[chosen]}), flush=True)
    while wish.get("go") and not os.path.exists(wish["go"]):
        time.sleep(0.1)
    output = made[chosen].outputs[0]
    return [read(0.5, inputs=[output]) for _ in range(wish["tasks"])]


def main() -> None:
    wish = json.loads(sys.argv[2])
    chosen = config(wish)
    said = [str(finding) for finding in doctor(chosen)]
    with parsl.load(chosen):
        wait_workers(wish["nodes"])
        print(json.dumps({"workers": wish["nodes"]}), flush=True)
        began = time.time()
        futures = {"share": share, "chain": chain}[sys.argv[1]](wish)
        rows = [row(future) for future in futures]
    print(json.dumps({"doctor": said, "began": began, "tasks": rows}))


if __name__ == "__main__":
    main()
