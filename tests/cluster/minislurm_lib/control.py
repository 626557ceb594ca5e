"""Cluster up and down, power off and on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from . import build, config, kernel, loops, network, node, services
from .commands import enter, run
from .errors import MinislurmError
from .layout import CONTROLLER, NODES_MAX, SWITCH, Layout, Settings

Say = Callable[[str], None]
PFS_SETTINGS = ("lat_us", "mds_ops", "bw_mbs", "client_mbs", "root_squash")


def up(layout: Layout, settings: Settings, say: Say) -> None:
    """Start a cluster; whatever interrupts this, nothing of it is left."""
    _check(layout, settings)
    try:
        _bring_up(layout, settings, say)
    except BaseException:
        if layout.exists():
            say("taking down what was started")
            down(layout)
        raise


def _check(layout: Layout, settings: Settings) -> None:
    if layout.exists():
        raise MinislurmError(
            f"there is a cluster in '{layout.base}' already (or what is left of one): "
            "'minislurm down' removes it"
        )
    if layout.base.exists() and any(layout.base.iterdir()):
        raise MinislurmError(f"'{layout.base}' is not empty and no cluster's directory")
    if layout.base.is_relative_to(node.NEW_ROOT):
        raise MinislurmError(
            f"bad directory '{layout.base}': it must not be below /run"
        )
    if not 1 <= settings.nodes <= NODES_MAX:
        raise MinislurmError(
            f"bad number of nodes {settings.nodes}: want 1 to {NODES_MAX}"
        )
    network.check_rate(settings.rate)
    for program in ("slurmctld", "slurmd", "munged", "nsenter", "mkfs.ext4", "tc"):
        if shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
            raise MinislurmError(f"'{program}' is not installed")


def _bring_up(layout: Layout, settings: Settings, say: Say) -> None:
    layout.base.mkdir(parents=True, mode=0o700, exist_ok=True)
    layout.save_settings(settings)
    layout.pfs_backing.mkdir()
    layout.pfs_backing.chmod(0o1777)
    layout.home.mkdir()
    pfs = build.build_pfs()
    run([pfs, layout.pfs_control, "show"])  # makes the control file
    if settings.pfs:
        pfs_set(layout, settings.pfs)
    if settings.vine and not build.can_install():
        say("nothing to install: a cluster without vine-env")
        settings.vine = False
    if settings.vine:
        build.install(layout)
    layout.save_settings(settings)
    config.write_config(layout, settings)
    nodes = layout.all_nodes()
    _start_nodes(layout, [SWITCH, *nodes], pfs)
    network.make_switch(layout)
    _connect_and_serve(layout, nodes)
    services.wait_idle(layout, layout.compute_nodes())
    _check_daemons(layout, nodes)


def _start_nodes(layout: Layout, nodes: list[str], pfs: Path) -> None:
    for name in nodes:
        if name != SWITCH:
            node.make_node_dirs(layout, name)
        if name not in (SWITCH, CONTROLLER):
            node.make_local_disk(layout, name)
    starting = [node.spawn(layout, name, pfs) for name in nodes]
    for one in starting:
        one.wait()


def _connect_and_serve(layout: Layout, nodes: list[str]) -> None:
    network.plug(layout, nodes)
    for name in nodes:
        if name != CONTROLLER:
            network.shape(layout, name, network.recorded_rate(layout, name))
    services.start_slurm(layout, nodes)
    if layout.settings().vine:
        for name in nodes:
            services.daemon(layout, name, "start")


def _check_daemons(layout: Layout, nodes: list[str]) -> None:
    for name in nodes:
        if layout.settings().vine and not services.daemon_alive(layout, name):
            program = services.daemon_program(name)
            log = services.tail(services.daemon_log(layout, name))
            raise MinislurmError(f"{program} on '{name}' ended; its log:\n{log}")


def crash(layout: Layout, name: str) -> None:
    """Power off: nothing in the node gets a chance to do anything. Its disk stays."""
    process = layout.running(name)
    carriers = loops.file_systems(process)
    if not kernel.kill_and_wait(process):
        raise MinislurmError(f"node '{name}' does not die")
    layout.drop_process(name)
    network.unplug(layout, name)
    loops.free(layout, [name], carriers)


def boot(layout: Layout, name: str) -> None:
    process = layout.process(name)
    if process is not None and process.alive():
        raise MinislurmError(f"node '{name}' is running")
    network.unplug(layout, name)
    _start_nodes(layout, [name], build.build_pfs())
    _connect_and_serve(layout, [name])
    _check_daemons(layout, [name])


def down(layout: Layout) -> None:
    """Remove all that the records on disk name; works after any accident."""
    if not layout.exists():
        return
    carriers: set[str] = set()
    processes = layout.recorded()
    for process in processes.values():
        if process.alive():
            carriers |= loops.file_systems(process)
    undead = [name for name, one in processes.items() if not kernel.kill_and_wait(one)]
    if undead:
        raise MinislurmError(f"nodes do not die: {' '.join(undead)}")
    found = [path.name for path in layout.base.glob("nodes/*") if path.name != SWITCH]
    loops.free(layout, found, carriers)
    _remove_directory(layout)


def _remove_directory(layout: Layout) -> None:
    """The marker goes last: until then `down` can be repeated."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    inside = [
        line.split()[4]
        for line in mounts
        if line.split()[4].startswith(f"{layout.base}/")
    ]
    if inside:
        raise MinislurmError(f"mounts below '{layout.base}': {' '.join(inside)}")

    def emptied() -> bool:
        for path in layout.base.iterdir():
            if path == layout.marker:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        return [*layout.base.iterdir()] == [layout.marker]

    if not kernel.wait_until(emptied, seconds=10):
        raise MinislurmError(f"cannot empty '{layout.base}'")
    layout.marker.unlink()
    layout.base.rmdir()


def pfs(layout: Layout, *arguments: str) -> str:
    return run([build.build_pfs(), layout.pfs_control, *arguments])


def pfs_drop(layout: Layout) -> None:
    """What all nodes have in their caches. The stand-in has no more than the means to
    make names expire: one that was replaced on another node meanwhile would cost two
    look-ups and a question for attributes. A remount frees the names themselves."""
    pfs(layout, "drop")
    for name in layout.compute_nodes():
        process = layout.process(name)
        if process is not None and process.alive():
            run([*enter(layout, name), "mount", "-i", "-o", "remount", "/pfs"])


def pfs_set(layout: Layout, values: dict[str, int]) -> None:
    pfs(layout, "set", *(f"{key}={value}" for key, value in values.items()))


def parse_pfs(text: str) -> dict[str, int]:
    """From "lat_us=1000,mds_ops=2000"."""
    values = {}
    for part in filter(None, text.split(",")):
        key, _, value = part.partition("=")
        if key not in PFS_SETTINGS or not value.isdigit():
            raise MinislurmError(
                f"bad setting '{part}': want {'|'.join(PFS_SETTINGS)}=NUMBER"
            )
        values[key] = int(value)
    return values
