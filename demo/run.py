"""make demo: a Parsl workflow on an 8-node Slurm cluster, with and without vine-env.

Starts the cluster, installs a Python environment on its shared file system, runs the
same workflow straight from there, with vine-env on empty caches, and on full ones.
Writes summary.json, tasks.json and tasks.png to build/demo, prints a table, takes the
cluster down. Exit status 1 if a run does not show what it must (see report.verify).
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plot
import report
from lab import PFS_COSTS, PFS_FREE, REPO, DemoError, Lab, require_root, say

DEMO = REPO / "demo"
WHEELS = REPO / "build/wheels"
OUTPUT = REPO / "build/demo"
HOME = "/home/vine1"  # the user's home: scripts, Parsl's logs; not on the measured /pfs
ENV = "/pfs/home/vine1/envs/ml"
IMAGE = f"{ENV}.sqsh"
DRIVER = f"{HOME}/driver"  # the Python environment of the Parsl script itself
# The plain directory is run too if this much of the demo's 10 minutes is not over yet.
DIRECTORY_RUNS_UNTIL_S = 380


@dataclass(frozen=True)
class Run:
    name: str
    vine_env: str | None
    cold: bool  # evict what the nodes have first


RUNS = [
    Run("shared-fs", None, False),
    Run("vine-env-cold", IMAGE, True),
    Run("vine-env-warm", IMAGE, False),
]
DIRECTORY_RUNS = [
    Run("vine-env-directory-cold", ENV, True),
    Run("vine-env-directory-warm", ENV, False),
]


def timed(what: str, action: Callable[[], object]) -> float:
    begin = time.monotonic()
    action()
    seconds = time.monotonic() - begin
    say(f"{what}: {seconds:.1f} s")
    return seconds


def make_venv(lab: Lab, path: str, packages: list[str]) -> None:
    lab.user("/usr/bin/python3", "-m", "venv", path)
    options = ["--no-index", "--find-links", f"{HOME}/wheels", "-q", "--no-compile"]
    pip = [f"{path}/bin/pip", "--disable-pip-version-check", "install", *options]
    lab.user(*pip, *packages, timeout=240)
    # pip would compile with one process. Some packages carry files that are not meant
    # to compile; pip does not mind them either.
    compile_all = f"{path}/bin/python -m compileall -qq -j 0 {path}/lib || true"
    lab.user("sh", "-c", compile_all, timeout=120)


def prepare(lab: Lab) -> dict[str, int]:
    """The user's files: scripts, the environment, its packed image. Their sizes."""
    lab.send(
        sorted(WHEELS.glob("*.whl")) + [DEMO / "requirements.txt"], f"{HOME}/wheels"
    )
    lab.send([DEMO / "workflow.py", DEMO / "train.py"], f"{HOME}/work")
    lab.pfs_set(PFS_FREE)
    timed("Parsl for the script", lambda: make_venv(lab, DRIVER, ["parsl"]))
    wanted = ["-r", f"{HOME}/wheels/requirements.txt"]
    timed(f"environment {ENV}", lambda: make_venv(lab, ENV, wanted))
    sizes = lab.user("find", ENV, "-type", "f", "-printf", "%s\\n").split()
    lab.pfs_set(PFS_COSTS)
    return {"env_files": len(sizes), "env_bytes": sum(map(int, sizes))}


def pack(lab: Lab) -> int:
    """Bytes of the image; the shared file system has its price while it is made."""
    lab.pfs_drop_caches()
    command = ["vine-env", "pack", ENV, "-o", IMAGE]
    timed(f"vine-env pack {ENV}", lambda: lab.user(*command, timeout=300))
    return int(lab.user("stat", "-c", "%s", IMAGE))


def workflow(lab: Lab, run: Run, tasks: int) -> dict[str, Any]:
    command = [f"{DRIVER}/bin/python", f"{HOME}/work/workflow.py", "--env", ENV]
    command += ["--nodes", str(len(lab.nodes)), "--tasks", str(tasks)]
    command += ["--run-dir", f"{HOME}/parsl/{run.name}"]
    if run.vine_env:
        command += ["--vine-env", run.vine_env]
    path = f"PATH={DRIVER}/bin:/usr/local/bin:/usr/bin:/bin"
    output = lab.user("env", path, *command, timeout=360)
    return json.loads(output.strip().splitlines()[-1])


def do_run(lab: Lab, run: Run, tasks: int) -> dict[str, Any]:
    """Run the workflow once; its times, its tasks and what moved meanwhile."""
    lab.wait_idle()
    if run.cold:
        lab.evict_all()
    lab.pfs_drop_caches()
    operations, moved = lab.pfs_counters()
    peer, origin = lab.node_bytes()
    result = workflow(lab, run, tasks)
    operations_after, moved_after = lab.pfs_counters()
    peer_after, origin_after = lab.node_bytes()
    result |= {
        "name": run.name,
        "pfs_metadata_ops": operations_after - operations,
        "pfs_bytes": moved_after - moved,
        "peer_bytes": peer_after - peer,
        "origin_bytes": origin_after - origin,
    }
    done = report.summary_of_run(result)
    say(
        f"{run.name}: first task done after {done['seconds_to_first_task']:.1f} s,"
        f" all {len(result['tasks'])} after {done['seconds_total']:.1f} s"
    )
    return result


def demo(args: argparse.Namespace) -> list[str]:
    """Everything but the end of the cluster. What was not as it must be."""
    with Lab(args.nodes, args.rate, args.keep) as lab:
        say(f"cluster of {args.nodes} nodes is up")
        summary: dict[str, Any] = {"nodes": args.nodes}
        summary["link_bits_per_s"] = lab.link_bits_per_s()
        say(f"a link carries {summary['link_bits_per_s'] / 1e6:.0f} Mbit/s")
        summary |= prepare(lab)
        say(f"{summary['env_files']} files, {summary['env_bytes'] / 1e6:.0f} MB")
        summary["image_bytes"] = pack(lab)
        results = [do_run(lab, run, args.tasks) for run in RUNS]
        directory = []
        if time.time() - args.begun < DIRECTORY_RUNS_UNTIL_S:
            directory = [do_run(lab, run, args.tasks) for run in DIRECTORY_RUNS]
        lab.wait_idle()
    summary["runs"] = [report.summary_of_run(r) for r in results]
    if directory:
        summary["directory_runs"] = [report.summary_of_run(r) for r in directory]
    write(args.output, summary, results + directory)
    print(report.table(summary))
    return report.verify(summary, results + directory, args.tasks)


def write(folder: Path, summary: dict[str, Any], results: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    (folder / "tasks.json").write_text(json.dumps(results, indent=1) + "\n")
    plot.draw(results, folder / "tasks.png")
    say(f"written: {', '.join(str(p) for p in sorted(folder.glob('*.*')))}")


def stop(signum: int, _: object) -> None:
    raise SystemExit(
        128 + signum
    )  # through the with-block, which takes the cluster down


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--rate", default="400mbit", help="of a node's link")
    parser.add_argument("--tasks", type=int, default=64)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--keep", action="store_true", help="leave the cluster up")
    parser.add_argument(
        "--begun",
        type=float,
        default=time.time(),
        help="when `make demo` was called, seconds since 1970",
    )
    args = parser.parse_args()
    require_root()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        faults = demo(args)
    except DemoError as error:
        faults = [str(error)]
    for fault in faults:
        print(f"demo: FAILED: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
