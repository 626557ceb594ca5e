"""What cluster tests are written with: commands in nodes, jobs, faults, and waits.

A test breaks something and looks at the result. Nothing sleeps: `wait_for` polls a
condition and fails with the reason given. A `Cluster` is a running minislurm; tests get
one from the fixture `cluster` in conftest.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from minislurm_lib import control, network, services
from minislurm_lib.commands import in_node
from minislurm_lib.errors import MinislurmError
from minislurm_lib.layout import Layout

MINISLURM = Path(__file__).resolve().parent / "minislurm"
FINISHED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}
POLL_SECONDS = 0.05
NEEDED = ("slurmctld", "slurmd", "munged", "nsenter", "mkfs.ext4", "tc", "losetup")


def skip(why: str) -> None:
    """A test that cannot run says so; where all must run, that is a failure."""
    if os.environ.get("VINE_MUST_RUN") == "1":
        pytest.fail(f"cannot run: {why}", pytrace=False)
    pytest.skip(f"SKIP: {why}")


def wait_for(
    predicate: Callable[[], Any], seconds: float = 10, what: str = "the condition"
) -> Any:
    """Poll until the predicate returns something true, and return that."""
    deadline = time.monotonic() + seconds
    while not (value := predicate()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds} s in vain for {what}")
        time.sleep(POLL_SECONDS)
    return value


@dataclass(frozen=True)
class Result:
    """A command that has ended. `code` is negative if a signal ended it."""

    words: str
    code: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"'{self.words}' exited with {self.code}\n{self.out}\n{self.err}"

    def checked(self) -> Result:
        assert self.code == 0, str(self)
        return self


@dataclass(frozen=True)
class Job:
    """A batch job that has ended."""

    number: int
    state: str
    code: int
    out: str


class Running:
    """A command in the background. Its output can be read while it runs."""

    def __init__(self, words: str, argv: list[str]) -> None:
        self.words = words
        self._out = tempfile.TemporaryFile()  # noqa: SIM115
        self._err = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            start_new_session=True,
        )

    @staticmethod
    def _text(file: Any) -> str:
        size = os.fstat(file.fileno()).st_size
        return os.pread(file.fileno(), size, 0).decode(errors="replace")

    @property
    def out(self) -> str:
        return self._text(self._out)

    @property
    def err(self) -> str:
        return self._text(self._err)

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def send(self, number: int) -> None:
        """A signal to the command and all its children (as a terminal would)."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def kill(self) -> Result:
        self.send(signal.SIGKILL)
        return self.wait(10)

    def wait(self, seconds: float = 60) -> Result:
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            self._process.wait(10)
            pytest.fail(
                f"'{self.words}' still ran after {seconds} s\n{self.out}\n{self.err}"
            )
        return Result(self.words, code, self.out, self.err)


@dataclass
class Cluster:
    """A running minislurm. What a test changes through it, `restore` puts back."""

    layout: Layout
    default_rate: str = "400mbit"
    crashed: set[str] = field(default_factory=set)
    shaped: set[str] = field(default_factory=set)
    without_daemon: set[str] = field(default_factory=set)
    background: list[Running] = field(default_factory=list)

    wait_for = staticmethod(wait_for)

    @property
    def nodes(self) -> list[str]:
        return self.layout.compute_nodes()

    @property
    def has_vine(self) -> bool:
        return self.layout.settings().vine

    def root(self, node: str) -> Path:
        """The node's root directory as seen from outside; its processes see "/"."""
        return Path(f"/proc/{self.layout.running(node).pid}/root")

    # --- commands -------------------------------------------------------------------

    def popen(
        self,
        node: str,
        *command: str,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Running:
        argv = in_node(self.layout, node, command, user or "root", env)
        running = Running(f"{node}: {' '.join(command)}", argv)
        self.background.append(running)
        return running

    def run(
        self,
        node: str,
        *command: str,
        user: str | None = None,
        timeout: float = 60,
        check: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        running = self.popen(node, *command, user=user, env=env)
        result = running.wait(timeout)
        self.background.remove(running)
        return result.checked() if check else result

    def sh(self, node: str, script: str, **how: Any) -> str:
        """Output of a shell script in the node; `how` as for run()."""
        return self.run(node, "bash", "-c", script, **how).out

    # --- jobs -----------------------------------------------------------------------

    def srun(
        self,
        *arguments: str,
        user: str = "vine1",
        node: str = "n1",
        timeout: float = 120,
        check: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        how = {"user": user, "timeout": timeout, "check": check, "env": env}
        return self.run(node, "srun", *arguments, **how)

    def srun_start(
        self,
        *arguments: str,
        user: str = "vine1",
        node: str = "n1",
        env: Mapping[str, str] | None = None,
    ) -> Running:
        return self.popen(node, "srun", *arguments, user=user, env=env)

    def submit(
        self, script: str, *options: str, user: str = "vine1", node: str = "n1"
    ) -> int:
        """sbatch; the output goes to the user's home. Returns the job's number."""
        if not script.startswith("#!"):
            script = "#!/bin/bash\n" + script
        path = self.layout.home / user / "job.sh"
        path.write_text(script)
        output = f"--output=/home/{user}/job-%j.out"
        words = ["sbatch", "--parsable", output, *options, f"/home/{user}/job.sh"]
        return int(self.run(node, *words, user=user).out.strip().splitlines()[-1])

    def job_field(self, number: int, name: str) -> str:
        shown = self.run("ctl", "scontrol", "show", "job", "-o", str(number)).out
        fields = dict(word.partition("=")[::2] for word in shown.split())
        return fields[name]

    def wait_job(self, number: int, timeout: float = 120, user: str = "vine1") -> Job:
        def state() -> str | None:
            now = self.job_field(number, "JobState")
            return now if now in FINISHED else None

        ended = wait_for(state, timeout, f"the end of job {number}")
        code = int(self.job_field(number, "ExitCode").partition(":")[0])
        output = self.layout.home / user / f"job-{number}.out"
        text = output.read_text(errors="replace") if output.exists() else ""
        return Job(number, ended, code, text)

    def sbatch(
        self, script: str, *options: str, user: str = "vine1", timeout: float = 120
    ) -> Job:
        return self.wait_job(self.submit(script, *options, user=user), timeout, user)

    def jobs(self) -> list[str]:
        """One line a job that is not over: number, state, user, name, nodes."""
        said = self.run("ctl", "squeue", "-h", "-o", "%i %T %u %j %N").out
        return said.splitlines()

    def node_states(self) -> dict[str, str]:
        """ "idle", "mixed", "draining*" ..., as `sinfo` has them."""
        return services.slurm_states(self.layout)

    def node_reasons(self) -> str:
        return self.run("ctl", "sinfo", "-R", "-h", "-o", "%N: %E", check=False).out

    # --- the shared file system -----------------------------------------------------

    def pfs_counters(self) -> dict[str, int]:
        """meta_ops, io_ops, bytes_read, bytes_written; and the settings."""
        return json.loads(control.pfs(self.layout, "show", "--json"))

    def pfs_zero(self) -> None:
        control.pfs(self.layout, "zero")

    def pfs_set(self, **values: int) -> None:
        control.pfs_set(self.layout, values)

    def pfs_drop_caches(self) -> None:
        control.pfs_drop(self.layout)

    # --- faults ---------------------------------------------------------------------

    def shape(self, node: str, rate: str) -> None:
        network.shape(self.layout, node, rate)
        self.shaped.add(node)

    def crash(self, node: str) -> None:
        """Power off. Put back by the fixture, or by boot()."""
        control.crash(self.layout, node)
        self.crashed.add(node)

    def boot(self, node: str) -> None:
        control.boot(self.layout, node)
        self.crashed.discard(node)
        self.without_daemon.discard(node)

    def daemon(self, node: str, action: str) -> None:
        """start, stop or kill the node's vine daemon ("ctl": the manager)."""
        services.daemon(self.layout, node, action)
        if action == "start":
            self.without_daemon.discard(node)
            wait_for(lambda: self._began(node), 30, f"the daemon of {node} to answer")
        else:
            self.without_daemon.add(node)

    def restart_daemon(self, node: str) -> None:
        """Not while an epilog wants to tell it that its job has ended."""
        if node in self.nodes:
            wait_for(lambda: not self.status(node)["jobs"], 20, "the jobs' end")
        self.daemon(node, "stop")
        self.daemon(node, "start")

    def _began(self, node: str) -> bool:
        """It answers, or has refused to run."""
        return (
            node not in self.nodes
            or self.run(node, "vine-env", "status", "--json", check=False).code == 0
            or not services.daemon_alive(self.layout, node)
        )

    # --- vine-env -------------------------------------------------------------------

    def status(self, node: str) -> dict[str, Any]:
        return json.loads(self.run(node, "vine-env", "status", "--json").out)

    def evict_all(self) -> None:
        """Every node forgets what no job uses. Its disk is a sparse file of this
        machine, which gets the space back."""
        for node in self.nodes:
            self.run(node, "vine-env", "evict", "--all")
            self.run(node, "fstrim", "/local")

    def log(self, node: str) -> str:
        """What the node's vine daemon has written."""
        return services.daemon_log(self.layout, node)

    # --- between tests --------------------------------------------------------------

    def restore(self) -> None:
        """Undo what tests do to a cluster: faults, costs, what still runs."""
        for running in self.background:
            if not running.ended:
                running.kill()
        self.background.clear()
        for node in sorted(self.crashed):
            self.boot(node)
            self._lose_jobs_of(node)
        for node in sorted(self.without_daemon):
            if not services.daemon_alive(self.layout, node):
                self.daemon(node, "start")
        self.without_daemon.clear()
        for node in sorted(self.shaped):
            self.shape(node, self.default_rate)
        self.shaped.clear()
        self.pfs_set(lat_us=0, mds_ops=0, bw_mbs=0, client_mbs=0, root_squash=0)

    def _lose_jobs_of(self, node: str) -> None:
        """Slurm takes long to see that jobs died with a node; tell it."""
        for state in ("down", "resume"):
            words = ["scontrol", "update", f"nodename={node}", f"state={state}"]
            self.run("ctl", *words, "reason=crashed", check=False)

    def unfit(self) -> str:
        """Why the cluster is not ready for the next test; empty if it is."""
        states = self.node_states()
        bad = [f"{n} {states.get(n)}" for n in self.nodes if states.get(n) != "idle"]
        return "\n".join([*bad, *self.jobs(), self.node_reasons()]).strip()

    def settle(self, seconds: float = 20) -> str:
        """Wait until the cluster is fit. Returns why it is not, and then mends it."""
        deadline = time.monotonic() + seconds
        while (why := self.unfit()) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        if why:
            self._mend()
        return why

    def _mend(self) -> None:
        for user in ("vine1", "vine2", "root"):
            self.run("ctl", "scancel", "-u", user, check=False)
        for node in self.nodes:
            if self.node_states().get(node) != "idle":
                self._lose_jobs_of(node)


def minislurm(
    base: Path, *words: str, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """The program itself, on the cluster in `base`."""
    return subprocess.run(
        [str(MINISLURM), *words],
        env={**os.environ, "MINISLURM_DIR": str(base)},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def why_not() -> str:
    """Why no cluster can run here; empty if one can."""
    if os.getuid() != 0:
        return "a cluster needs root"
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        return f"not installed: {' '.join(missing)}"
    return "" if os.path.exists("/dev/fuse") else "no /dev/fuse"


def take_down(base: Path) -> None:
    """Not to be interrupted: a second Ctrl-C would leave a cluster behind."""
    ends = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ends}
    try:
        done = minislurm(base, "down")
        assert done.returncode == 0, done.stderr
        if base.exists():
            base.rmdir()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


__all__ = [
    "Cluster",
    "Job",
    "MinislurmError",
    "Result",
    "Running",
    "minislurm",
    "skip",
    "take_down",
    "why_not",
]
