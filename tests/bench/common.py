"""What every benchmark is written with: bounds, tables, results, a cluster, iperf3.

A benchmark is a file tests/bench/NAME.py with a function `run() -> dict`: figures under
names of its own, and under "bounds" a list of Bound. It ends with

    if __name__ == "__main__":
        sys.exit(common.main("NAME", run))

which writes build/bench/NAME.json, prints the bounds, and returns 1 if one is missed.
`make bench-NAME` runs one, `make bench` all of them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "tests/cluster"))

import pytest  # noqa: E402
from cluster import Cluster, minislurm, take_down, why_not  # noqa: E402
from minislurm_lib.layout import Layout, address  # noqa: E402

OUTPUT = REPO / "build/bench"
RATE = "400mbit"
# A believable loaded parallel file system: a round trip of 1 ms, a metadata server of
# 2,000 operations a second, 200 MB/s for all, 100 MB/s for one client.
PFS_COSTS = {"lat_us": 1000, "mds_ops": 2000, "bw_mbs": 200, "client_mbs": 100}
IPERF_SECONDS = 2


class BenchError(Exception):
    """Something that the person who runs the benchmark must read."""


# --- bounds and tables ----------------------------------------------------------------


@dataclass(frozen=True)
class Bound:
    """A figure that was measured and what it must not pass."""

    name: str
    measured: float
    limit: float
    unit: str = ""
    at_least: bool = False  # the limit is a lower one
    # Shown beside, not held against the limit: why this machine cannot tell.
    beside: str = ""

    @property
    def ok(self) -> bool:
        if self.beside:
            return True
        # Written so that a NaN is a miss.
        if self.at_least:
            return self.measured >= self.limit
        return self.measured <= self.limit

    @property
    def verdict(self) -> str:
        if self.beside:
            return f"beside: {self.beside}"
        return "yes" if self.ok else "**NO**"

    def row(self) -> list[str]:
        sign = "at least" if self.at_least else "at most"
        unit = f" {self.unit}" if self.unit else ""
        return [
            self.name,
            f"{figure(self.measured)}{unit}",
            f"{sign} {figure(self.limit)}{unit}",
            self.verdict,
        ]


def figure(value: float) -> str:
    """Three digits that matter, or all of a large number: 0.312, 14.2, 46,064."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1
    return f"{value:.{digits}f}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the first column to the left and the others to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0])]
        cells += [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
        return f"| {' | '.join(cells)} |"

    rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
    return "\n".join([line(header), line(rule), *map(line, rows)])


def bounds_table(bounds: Sequence[Bound]) -> str:
    rows = [bound.row() for bound in bounds]
    return markdown(["bound", "measured", "limit", "met"], rows)


def as_bounds(result: dict[str, Any]) -> list[Bound]:
    """The bounds of a result, also of one read back from its file."""
    return [b if isinstance(b, Bound) else Bound(**b) for b in result["bounds"]]


# --- results --------------------------------------------------------------------------


def median(values: Sequence[float]) -> float:
    return float(statistics.median(values))


def write_json(name: str, result: dict[str, Any], folder: Path = OUTPUT) -> Path:
    """build/bench/NAME.json; whole or not at all."""

    def plain(value: object) -> object:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return dataclasses.asdict(value)
        return str(value)

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(result, indent=1, default=plain) + "\n")
    return temporary.rename(path)


def machine() -> dict[str, Any]:
    """What the figures depend on and a reader cannot guess."""

    def said(*command: str) -> str:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        except OSError:
            return ""
        return done.stdout.strip().partition("\n")[0]

    return {
        "cores": cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "slurm": said("/usr/sbin/slurmctld", "-V"),
        "python": platform.python_version(),
        "vine_env": said(str(REPO / "build/vine-env"), "--version"),
        "commit": said("git", "-C", str(REPO), "describe", "--always", "--dirty"),
    }


def cores_short(shares: Sequence[float]) -> str:
    """For `Bound.beside`, from what was busy over all cores' time that a bound allows.

    More than all of it: the work of all nodes does not fit into the cores that they
    share, even if these were busy from the first moment of the allowed time to the
    last. Else nothing, and the bound applies."""
    share = median(shares)
    return f"{share:.2f} of all cores' time" if share > 1 else ""


def cores() -> int:
    """That all nodes of a cluster share."""
    return os.cpu_count() or 1


def busy_seconds() -> float:
    """Of all cores, since the machine started: whatever ran, interrupts included."""
    words = Path("/proc/stat").read_text().partition("\n")[0].split()
    user, nice, system, _idle, _iowait, irq, softirq = map(int, words[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


# --- knobs ----------------------------------------------------------------------------


def quick() -> bool:
    """BENCH_QUICK=1: fewer rounds and sizes, to see that it works."""
    return os.environ.get("BENCH_QUICK", "") not in ("", "0")


def rounds() -> int:
    return int(os.environ.get("BENCH_ROUNDS") or (1 if quick() else 3))


def node_counts() -> list[int]:
    default = "2 4" if quick() else "2 4 8 16"
    return [int(word) for word in (os.environ.get("BENCH_NODES") or default).split()]


# --- the cluster ----------------------------------------------------------------------


def running_pid(cluster: Cluster, node: str, name: str) -> int | None:
    wanted = os.readlink(f"/proc/{cluster.layout.running(node).pid}/ns/pid")
    for entry in Path("/proc").iterdir():
        try:
            if (
                entry.name.isdigit()
                and (entry / "comm").read_text().strip() == name[:15]
                and os.readlink(entry / "ns/pid") == wanted
            ):
                return int(entry.name)
        except OSError:
            continue  # it ended meanwhile
    return None


def daemon_pid(cluster: Cluster, node: str, name: str) -> int:
    """As seen from here: the process of that name in the node's pid namespace; one that
    was started this moment may still be the shell that becomes it."""
    found: list[int] = []

    def seen() -> bool:
        pid = running_pid(cluster, node, name)
        found.extend([] if pid is None else [pid])
        return bool(found)

    cluster.wait_for(seen, 5, f"{name} on {node}")
    return found[0]


@contextmanager
def running_cluster(
    nodes: int = 8, rate: str = RATE, pfs: dict[str, int] | None = None
) -> Iterator[Cluster]:
    """A minislurm of its own, taken down whatever happens; `pfs` defaults to PFS_COSTS.

    MINISLURM_ATTACH=DIR uses the one that runs there, if it is large enough.
    """
    costs = PFS_COSTS if pfs is None else pfs
    if attached := os.environ.get("MINISLURM_ATTACH"):
        cluster = Cluster(Layout(Path(attached)), rate)
        if len(cluster.nodes) < nodes:
            raise BenchError(
                f"'{attached}' has {len(cluster.nodes)} nodes, not {nodes}"
            )
        cluster.pfs_set(**{**dict.fromkeys(PFS_COSTS, 0), **costs})
        try:
            yield cluster
        finally:
            cluster.restore()
        return
    if why := why_not():
        raise BenchError(f"no cluster can run here: {why}")
    given = os.environ.get("MINISLURM_DIR")
    base = Path(given or tempfile.mkdtemp(prefix="vine-env-bench-"))
    words = ["up", "--nodes", str(nodes), "--rate", rate]
    words += ["--pfs", ",".join(f"{k}={v}" for k, v in costs.items())] if costs else []
    try:
        done = minislurm(base, *words)
        if done.returncode != 0:
            raise BenchError(f"no cluster: {done.stderr.strip()}")
        yield Cluster(Layout(base), rate)
    finally:
        take_down(base)


def link_bytes_per_s(
    cluster: Cluster, sender: str = "n1", receiver: str = "n2"
) -> float:
    """What a link carries between two nodes, by iperf3: the B of the bounds."""
    server = cluster.popen(receiver, "iperf3", "-s", "-1")
    command = ["iperf3", "-c", address(receiver), "-t", str(IPERF_SECONDS), "-J"]
    found: list[float] = []

    def measured() -> bool:
        done = cluster.run(sender, *command, check=False, timeout=30)
        end = json.loads(done.out).get("end", {})  # its status is 0 also if refused
        if "sum_received" in end:
            found.append(end["sum_received"]["bits_per_second"] / 8)
        return bool(found)

    cluster.wait_for(measured, 10, "iperf3's answer")
    server.wait(10)
    cluster.background.remove(server)
    return found[0]


def received_bytes(cluster: Cluster, nodes: Sequence[str] | None = None) -> int:
    """What came in over the links of these nodes, whoever sent it."""
    total = 0
    for node in nodes or cluster.nodes:
        lines = Path(f"/proc/{cluster.layout.running(node).pid}/net/dev").read_text()
        for line in lines.splitlines()[2:]:
            name, _, numbers = line.partition(":")
            total += 0 if name.strip() == "lo" else int(numbers.split()[0])
    return total


# --- a benchmark's end ----------------------------------------------------------------


def stop(number: int, _: object) -> None:
    """Once, and through the with-blocks, which take the cluster down."""
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)
    raise SystemExit(128 + number)


def main(name: str, run: Callable[[], dict[str, Any]]) -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        result = run()
    except (BenchError, AssertionError, pytest.fail.Exception) as error:
        print(f"bench {name}: {error}", file=sys.stderr)
        return 1
    result.setdefault("machine", machine())
    path = write_json(name, result)
    bounds = as_bounds(result)
    print(f"\n{bounds_table(bounds)}\n\nbench {name}: written to {path}")
    return 0 if all(bound.ok for bound in bounds) else 1
