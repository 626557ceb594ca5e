"""make bench: every benchmark, one after the other, and all their bounds in one table.

Each runs as a program of its own and leaves build/bench/NAME.json. Exit status 1 if a
bound is missed or a benchmark did not come to its end.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import common
from common import OUTPUT, Bound

HERE = Path(__file__).resolve().parent
# Program and the name of its results. What is not in the repository is not run.
PARTS = {
    "startup": "results",
    "lazy": "lazy",
    "update": "update",
    "dataplane": "dataplane",
    "image": "image",
    "warm": "warm",
    "remote": "remote",
    "tasks": "tasks",
    "idle": "idle",
    "crowd": "crowd",
}
END_SECONDS = 120  # a part that is told to end takes its cluster down first


def present() -> list[str]:
    return [name for name in PARTS if (HERE / f"{name}.py").exists()]


def run_part(name: str) -> None:
    """Its result is in its file, or not; a signal to us is one to it."""
    (OUTPUT / f"{PARTS[name]}.json").unlink(missing_ok=True)
    print(f"\n== bench {name}", flush=True)
    child = subprocess.Popen([sys.executable, str(HERE / f"{name}.py")])
    try:
        child.wait()
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
            child.wait(END_SECONDS)


def bounds_of(name: str, folder: Path = OUTPUT) -> list[Bound]:
    """A part without results has missed its first bound."""
    path = folder / f"{PARTS[name]}.json"
    if not path.exists():
        return [Bound(f"{name}: comes to its end", 0, 1, "", at_least=True)]
    found = common.as_bounds(json.loads(path.read_text()))
    return [Bound(**{**vars(b), "name": f"{name}: {b.name}"}) for b in found]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=" ".join(present()))
    parser.add_argument(
        "--table", action="store_true", help="run nothing: what the last runs left"
    )
    options = parser.parse_args()
    parts = options.parts or present()
    if unknown := set(parts) - set(present()):
        parser.error(f"no such benchmark: {' '.join(sorted(unknown))}")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, common.stop)
    begin = time.monotonic()
    if not options.table:
        for name in parts:
            run_part(name)
    bounds = [bound for name in parts for bound in bounds_of(name)]
    text = common.bounds_table(bounds)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "bounds.md").write_text(text + "\n")
    missed = sum(not bound.ok for bound in bounds)
    beside = sum(bool(bound.beside) for bound in bounds)
    minutes = (time.monotonic() - begin) / 60
    count = f"{len(bounds) - beside} bounds, {missed} missed"
    print(f"\n{text}\n\n{count}, {minutes:.0f} minutes")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
