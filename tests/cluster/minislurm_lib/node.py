"""A node: the first process of its own pid, mount, network, uts and ipc namespaces.

Its death removes everything of the node, so switching the power off is one SIGKILL. It
builds the node's root directory, makes it the root, and then only reaps.

The root is the host's, directory by directory, except: /usr is overlaid with the
installed project, /etc with the cluster's files and a layer of the node's own; /home is
the cluster's; /run, /tmp, /local, /pfs, and under /var what daemons write, are the
node's.
Nothing of the cluster's own directory is visible in there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import traceback
from dataclasses import dataclass
from pathlib import Path

from . import kernel
from .commands import run, tail
from .errors import MinislurmError
from .layout import CONTROLLER, LOCAL_BYTES, REPO, SWITCH, Layout

# The new root is built where the host has something that nodes never need.
NEW_ROOT = Path("/run")
OWN_VAR = ("log", "spool", "cache", "tmp", "lib/munge")
SWITCH_NAMESPACES = kernel.CLONE_NEWPID | kernel.CLONE_NEWNET
NAMESPACES = (
    SWITCH_NAMESPACES | kernel.CLONE_NEWNS | kernel.CLONE_NEWUTS | kernel.CLONE_NEWIPC
)


@dataclass
class Starting:
    """A node that builds its root; `report` ends with 'ready' or says what failed."""

    node: str
    log: Path
    report_fd: int

    def wait(self) -> None:
        with os.fdopen(self.report_fd, errors="replace") as report:
            said = report.read()
        if said != "ready":
            log = tail(self.log.read_text(errors="replace"))
            said = said or "it was killed"
            raise MinislurmError(f"cannot start node '{self.node}': {said}\n{log}")


def make_node_dirs(layout: Layout, node: str) -> None:
    """What a node keeps when its power fails. Existing ones stay as they are."""
    base = layout.node_dir(node)
    for name in ("tmp", "etc", "etc.work", *(f"var/{own}" for own in OWN_VAR)):
        (base / name).mkdir(parents=True, exist_ok=True)
    for name in ("tmp", "var/tmp"):
        (base / name).chmod(0o1777)
    for name, owner in (
        ("var/log/munge", "munge"),
        ("var/lib/munge", "munge"),
        ("var/log/slurm", "slurm"),
        ("var/spool/slurm/state", "slurm"),
        ("var/spool/slurm/d", "root"),
        ("var/log/vine-env", "root"),
    ):
        (base / name).mkdir(parents=True, exist_ok=True)
        shutil.chown(base / name, owner, owner)
    if not (base / "log").is_symlink():
        (base / "log").symlink_to("var/log")


def make_local_disk(layout: Layout, node: str) -> None:
    """The node's own disk: made once, kept when the power fails."""
    image = layout.node_dir(node) / "local.img"
    if image.exists():
        return
    fresh = image.with_suffix(".new")
    with fresh.open("wb") as file:
        file.truncate(LOCAL_BYTES)
    options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard"
    run(["mkfs.ext4", "-q", "-E", options, "-J", "size=16", "-m", "0", fresh])
    fresh.rename(image)


def spawn(layout: Layout, node: str, pfs_program: Path) -> Starting:
    """Start the node's first process.

    It may do nothing before its identity is on disk: it waits for a word from us, and
    if we die instead, it ends.
    """
    layout.node_dir(node).mkdir(parents=True, exist_ok=True)
    go_read, go_write = os.pipe()
    report_read, report_write = os.pipe()
    parent = os.fork()
    if parent == 0:
        _fork_in_namespaces(layout, node, pfs_program, go_read, report_write)
    os.close(go_read)
    os.close(report_write)
    os.waitpid(parent, 0)
    said = _read_line(report_read)
    if not said.isdigit():
        os.close(go_write)
        raise MinislurmError(f"cannot start node '{node}': {said}")
    process = kernel.Process(int(said), kernel.start_time(int(said)) or 0)
    layout.save_process(node, process)
    os.write(go_write, b"go")
    os.close(go_write)
    return Starting(node, layout.node_dir(node) / "init.log", report_read)


def _read_line(fd: int) -> str:
    line = b""
    while (byte := os.read(fd, 1)) not in (b"", b"\n"):
        line += byte
    return line.decode(errors="replace")


def _fork_in_namespaces(
    layout: Layout, node: str, pfs: Path, go: int, report: int
) -> None:
    """In the first child: never returns. The grandchild is the node's first process."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        os.setsid()
        go, report = _keep_only(go, report, layout.node_dir(node) / "init.log")
        kernel.unshare(SWITCH_NAMESPACES if node == SWITCH else NAMESPACES)
        child = os.fork()
        if child > 0:
            os.write(report, b"%d\n" % child)
            os._exit(0)
        if os.read(go, 2) != b"go":
            os._exit(1)
        _be_first_process(layout, node, pfs, report)
    except BaseException:
        os.write(report, traceback.format_exc(limit=-2).encode())
    finally:
        os._exit(1)


def _keep_only(go: int, report: int, log: Path) -> tuple[int, int]:
    """Only these two descriptors, as 3 and 4; the standard ones lead to a file."""
    null = os.open("/dev/null", os.O_RDONLY)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    # First out of the way, so that no target number is still a source.
    go, report, null, out = (
        fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in (go, report, null, out)
    )
    for source, target in ((null, 0), (out, 1), (out, 2), (go, 3), (report, 4)):
        os.dup2(source, target, target < 3)
    os.closerange(5, 65536)
    return 3, 4


def _be_first_process(
    layout: Layout, node: str, pfs_program: Path, report: int
) -> None:
    os.umask(0o022)
    if node != SWITCH:
        kernel.set_hostname(node)
        kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
        _build_root(layout, node, pfs_program)
    os.write(report, b"ready")
    os.close(report)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while True:
        signal.sigwait({signal.SIGCHLD})
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0] > 0:
                pass


def _build_root(layout: Layout, node: str, pfs_program: Path) -> None:
    base = layout.node_dir(node)
    kernel.mount("tmpfs", NEW_ROOT, "tmpfs", 0, "mode=755")
    _take_from_host()
    _mount_usr_and_etc(layout, base)
    for own in OWN_VAR:
        target = NEW_ROOT / "var" / own
        if target.is_dir():
            kernel.bind(base / "var" / own, target)
    kernel.bind(layout.home, _directory("home"))
    kernel.bind(base / "tmp", _directory("tmp"))
    _show_repository(base)
    kernel.mount("tmpfs", _directory("run"), "tmpfs", 0, "mode=755")
    _make_run()
    if node != CONTROLLER:
        image = base / "local.img"
        subprocess.run(
            # As an SSD with a protected cache: a flush costs nothing. Without it each
            # node's fsync would be one of the disk that all nodes' images lie on.
            ["mount", "-o", "loop,noatime,nobarrier", image, _directory("local")],
            check=True,
        )
        _directory("pfs")
        subprocess.run(
            [
                pfs_program,
                layout.pfs_control,
                "mount",
                layout.pfs_backing,
                NEW_ROOT / "pfs",
            ],
            check=True,
        )
    old = _directory("old-root")
    os.chdir(NEW_ROOT)
    kernel.pivot_root(str(NEW_ROOT), str(old))
    os.chdir("/")
    kernel.unmount_lazily("/old-root")
    os.rmdir("/old-root")


def _directory(name: str) -> Path:
    path = NEW_ROOT / name
    path.mkdir(exist_ok=True)
    return path


def _take_from_host() -> None:
    """Directories of the host as they are; its links (/bin ...) as links."""
    ours = {"etc", "home", "local", "pfs", "proc", "run", "sys", "tmp", "usr"}
    for entry in os.scandir("/"):
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), NEW_ROOT / entry.name)
        elif entry.is_dir() and entry.name not in ours:
            kernel.bind(entry.path, _directory(entry.name), kernel.MS_REC)
    kernel.mount("proc", _directory("proc"), "proc")
    kernel.mount("sysfs", _directory("sys"), "sysfs")
    kernel.mount("tmpfs", NEW_ROOT / "sys/fs/cgroup", "tmpfs")
    kernel.mount("tmpfs", NEW_ROOT / "dev/shm", "tmpfs", 0, "mode=1777")


def _mount_usr_and_etc(layout: Layout, base: Path) -> None:
    installed = layout.install
    if (installed / "usr").is_dir():
        kernel.mount(
            "usr", _directory("usr"), "overlay", 0, f"lowerdir={installed}/usr:/usr"
        )
    else:
        kernel.bind("/usr", _directory("usr"), kernel.MS_REC)
    layers = [
        layout.etc,
        *([installed / "etc"] if (installed / "etc").is_dir() else []),
        "/etc",
    ]
    lower = ":".join(map(str, layers))
    options = f"lowerdir={lower},upperdir={base}/etc,workdir={base}/etc.work"
    kernel.mount("etc", _directory("etc"), "overlay", 0, options)


def _show_repository(base: Path) -> None:
    """Tests start programs from the repository: show it even if it lies below /tmp."""
    if REPO.parts[1:2] == ("tmp",):
        target = base / "tmp" / REPO.relative_to("/tmp")
        target.mkdir(parents=True, exist_ok=True)
        kernel.bind(REPO, target, kernel.MS_REC)


def _make_run() -> None:
    for name in ("munge", "slurm", "user", "lock", "minislurm"):
        (NEW_ROOT / "run" / name).mkdir()
    shutil.chown(NEW_ROOT / "run/munge", "munge", "munge")
    (NEW_ROOT / "run/minislurm").chmod(0o700)
