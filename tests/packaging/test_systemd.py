"""The packages on a machine that runs systemd and Slurm: the daemons do all of their
work under their units, and go without a trace."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from machine import Machine, wait_for

DAEMONS = ("vine-managerd", "vined")
CONF = "/etc/vine-env/vine-env.conf"
SLURM_CONF = """
ClusterName=c
SlurmctldHost=n1
AuthType=auth/munge
SlurmUser=slurm
StateSaveLocation=/var/lib/slurm/slurmctld
SlurmdSpoolDir=/var/lib/slurm/slurmd
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
PrologFlags=Alloc,Contain
PlugStackConfig=/etc/slurm/plugstack.conf
NodeName=n1 CPUs=4 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP OverSubscribe=FORCE
"""
# The host's control groups, which slurmd would look at in /proc, are not to be used.
CGROUP_CONF = "CgroupPlugin=cgroup/v1\n"
SLURM = """
head -c 128 /dev/urandom > /etc/munge/munge.key
chown munge: /etc/munge/munge.key
chmod 400 /etc/munge/munge.key
rm -rf /var/lib/slurm/slurmctld/* /var/lib/slurm/slurmd/*
cp /given/slurm.conf /given/cgroup.conf /etc/slurm
useradd -m alice
install -d -o alice /shared /shared/env /shared/env/bin
printf '#!/bin/sh\necho hello\n' > /shared/env/bin/hello
chmod 755 /shared/env/bin/hello
head -c 1000000 /dev/urandom > /shared/env/data
cp /shared/env/data /shared
chown -R alice /shared
systemctl start munge slurmctld slurmd
"""


def install(machine: Machine, packages: dict[str, Path]) -> str:
    for path in packages.values():
        (machine.given / path.name).write_bytes(path.read_bytes())
    return machine.sh("dpkg --force-confold -i /given/*.deb 2>&1")


def idle(machine: Machine) -> bool:
    return "idle" in machine.try_sh("sinfo -h -o %T").stdout.split()


def connected(machine: Machine) -> bool:
    return "n1, connected" in machine.try_sh("vine-env status").stdout


def starts_again(machine: Machine, unit: str) -> int:
    return int(machine.shows(unit, "NRestarts")[0])


def failed(machine: Machine, unit: str) -> bool:
    return machine.shows(unit, "ActiveState") == ["failed"]


@pytest.fixture(scope="module")
def machine(packages: dict[str, Path]) -> Iterator[Machine]:
    """One node, its manager and its Slurm, made as contrib/ROLLOUT.md says."""
    with tempfile.TemporaryDirectory(prefix="vine-machine-") as folder:
        machine = Machine(Path(folder))
        try:
            machine.start()
            (machine.given / "slurm.conf").write_text(SLURM_CONF)
            (machine.given / "cgroup.conf").write_text(CGROUP_CONF)
            machine.sh(SLURM)
            install(machine, packages)
            machine.sh(f"sed -i 's/^#managers =.*/managers = n1/' {CONF}")
            machine.sh("systemctl restart vine-managerd vined")
            plugin = "optional /usr/lib/vine-env/vine_env.so"
            machine.sh(f"echo '{plugin}' >> /etc/slurm/plugstack.conf")
            machine.sh("systemctl restart slurmd")
            wait_for(lambda: idle(machine), 30, "an idle node")
            wait_for(lambda: connected(machine), 10, "the manager")
            machine.sh("vine-env pack -q /shared/env -o /shared/env.sqsh", "alice")
            yield machine
        finally:
            machine.stop()


def test_the_packages_start_the_daemons(machine: Machine) -> None:
    for name in DAEMONS:
        assert machine.shows(name, "ActiveState", "UnitFileState", "NRestarts") == [
            "active",
            "enabled",
            "0",
        ]
    said = machine.sh("vine-env doctor")
    assert " 0 faults" in said, said


def test_a_user_stages_without_slurm(machine: Machine) -> None:
    assert "1.0 MB" in machine.sh("vine-env stage /shared/env 2>&1", "alice")
    assert "n1, connected" in machine.sh("vine-env status", "alice")


def test_a_job_runs_from_its_image(machine: Machine) -> None:
    """What the daemon mounts is seen by slurmd's tasks."""
    script = "grep ' /shared/env ' /proc/self/mountinfo; /shared/env/bin/hello"
    said = machine.sh(f'srun --vine-env=/shared/env sh -c "{script}"', "alice")
    assert " - squashfs /dev/loop" in said
    assert said.endswith("hello\n")


def test_an_unsigned_image_goes_through_squashfuse(machine: Machine) -> None:
    script = "grep ' /shared/env ' /proc/self/mountinfo; /shared/env/bin/hello"
    said = machine.sh(f'srun --vine-env=/shared/env.sqsh sh -c "{script}"', "alice")
    assert " - fuse.squashfuse " in said
    assert said.endswith("hello\n")


@pytest.fixture
def configuration(machine: Machine) -> Iterator[None]:
    """Put back, and both daemons run, when the test is done."""
    machine.sh(f"cp {CONF} /tmp/saved")
    yield
    machine.sh(f"cp /tmp/saved {CONF}; systemctl restart vine-managerd vined")
    wait_for(lambda: connected(machine), 10, "the manager")


@pytest.mark.parametrize(
    ("unit", "line"),
    [
        ("vined", "nonsense = 1"),
        ("vined", "cache_max = much"),
        ("vined", "helper_user = root"),
        ("vine-managerd", "listen = everywhere"),
    ],
)
@pytest.mark.usefixtures("configuration")
def test_a_wrong_configuration_is_not_tried_again(
    machine: Machine, unit: str, line: str
) -> None:
    section = "manager" if unit == "vine-managerd" else "node"
    machine.sh(f"systemctl stop {unit}; sed -i '/^.{section}.$/a {line}' {CONF}")
    machine.sh(f"sed -i '/^helper_user = _/d' {CONF}")  # a name is said once
    assert machine.try_sh(f"systemctl start {unit}").returncode != 0
    wait_for(lambda: failed(machine, unit), 5, f"{unit}'s end")
    assert machine.shows(unit, "ExecMainStatus", "NRestarts") == ["2", "0"]
    machine.sh(f"cp /tmp/saved {CONF}; systemctl start {unit}")
    assert machine.shows(unit, "ActiveState") == ["active"]


@pytest.mark.parametrize(("unit", "port"), [("vined", 7111), ("vine-managerd", 7110)])
@pytest.mark.usefixtures("configuration")
def test_what_passes_is_waited_for(machine: Machine, unit: str, port: int) -> None:
    """More starts than systemd's default would allow: another one has the port."""
    machine.sh(f"systemctl stop {unit}")
    machine.sh(f"mkdir -p /run/systemd/system/{unit}.service.d")
    drop_in = f"/run/systemd/system/{unit}.service.d/fast.conf"
    machine.sh(f"printf '[Service]\\nRestartSec=100ms\\n' > {drop_in}")
    machine.sh("systemctl daemon-reload")
    serve = f's = socket.create_server(("", {port})); time.sleep(99)'
    python = f"/usr/bin/python3 -c 'import socket, time; {serve}'"
    machine.sh(f"systemd-run -q -u taker {python}")
    taken = f"ss -Hltn sport = :{port} | grep -q LISTEN"
    wait_for(lambda: machine.try_sh(taken).returncode == 0, 10, "the port's taker")
    machine.sh(f"systemctl start --no-block {unit}")
    wait_for(lambda: starts_again(machine, unit) > 6, 20, "seven more starts")
    machine.sh("systemctl stop taker")
    wait_for(lambda: machine.shows(unit, "ActiveState") == ["active"], 10, unit)
    machine.sh(f"rm {drop_in}; systemctl daemon-reload")


WORK = """
touch {started}
until test -e {go}; do sleep 0.05; done
cmp /shared/env/data /shared/data && /shared/env/bin/hello
"""


@contextmanager
def running_job(machine: Machine, image: str) -> Iterator[None]:
    """A job that has the image while the block runs, and reads all of it thereafter."""
    folder = machine.sh("mktemp -d", "alice").strip()
    work = WORK.format(started=f"{folder}/started", go=f"{folder}/go")
    job = machine.begin(f"srun --vine-env={image} sh -c '{work}'", "alice")
    started = f"test -e {folder}/started"
    wait_for(lambda: machine.try_sh(started).returncode == 0, 20, "the job")
    try:
        yield
    finally:
        machine.sh(f"touch {folder}/go", "alice")
        said = job.communicate(timeout=30)[0]
    assert job.returncode == 0, said
    assert said.endswith("hello\n")


def our_mounts(machine: Machine) -> list[str]:
    places = ("/run/vine", "/shared", "/var/cache")
    return [line for line in machine.mounts() if line.split()[4].startswith(places)]


def jobs(machine: Machine) -> list[object]:
    found: list[object] = json.loads(machine.sh("vine-env status --json"))["jobs"]
    return found


def said_by_vined(machine: Machine) -> str:
    return machine.sh("journalctl -q -u vined -o cat")


def our_processes(machine: Machine) -> str:
    return machine.try_sh("pgrep -l '^(vine|squashfuse)'").stdout


@pytest.mark.parametrize("image", ["/shared/env", "/shared/env.sqsh"])
def test_a_job_outlives_what_happens_to_the_daemon(
    machine: Machine, image: str
) -> None:
    with running_job(machine, image):
        machine.sh("systemctl restart vined")
        machine.sh("systemctl kill -s KILL --kill-whom=main vined")
        wait_for(lambda: connected(machine), 10, "the daemon")
        install_again = "dpkg --force-confold -i /given/*.deb 2>&1"
        before = machine.shows("vined", "MainPID")
        machine.sh(install_again)
        assert machine.shows("vined", "MainPID") != before
    # And the next job finds all in order.
    with running_job(machine, image):
        pass


def test_a_stop_leaves_nothing(machine: Machine) -> None:
    """When no job has anything mounted."""
    machine.sh("srun --vine-env=/shared/env,/shared/env.sqsh:/mnt true", "alice")
    assert our_mounts(machine) != []
    wait_for(lambda: jobs(machine) == [], 10, "the job's epilog")
    machine.sh("systemctl stop vined")
    assert our_mounts(machine) == []
    wait_for(lambda: "squashfuse" not in our_processes(machine), 10, "squashfuse")
    assert "/var/cache/vine-env" not in machine.sh("losetup -l -n -O BACK-FILE")
    machine.sh("systemctl start vined")
    wait_for(lambda: connected(machine), 10, "the manager")


MANAGER = r"transfer_log = /var/lib/vine-managerd/log\nmetrics = 127.0.0.1:7113"
NODE = r"metrics = 127.0.0.1:7112\nnice = 5"
FIGURES = """
from urllib.request import urlopen
for port in (7112, 7113):
    print(urlopen(f"http://127.0.0.1:{port}/metrics").read().decode())
"""


@pytest.mark.usefixtures("configuration")
def test_what_is_off_by_default_works_too(machine: Machine) -> None:
    """Figures by a library that is loaded late, and the one place to write to."""
    machine.sh(f"sed -i '/^.manager.$/a {MANAGER}' {CONF}")
    machine.sh(f"sed -i '/^.node.$/a {NODE}' {CONF}")
    machine.sh("systemctl restart vine-managerd vined")
    wait_for(lambda: connected(machine), 10, "the manager")
    (machine.given / "figures.py").write_text(FIGURES)
    figures = machine.sh("/usr/bin/python3 /given/figures.py")
    assert "vine_objects{" in figures and "vine_manager_info{" in figures
    job = "srun --vine-env=/shared/env sh -c 'echo $SLURM_JOB_ID'"
    number = machine.sh(job, "alice").strip()
    machine.sh(f"vine-env report {number} -o /tmp/{number}.html", "alice")
    assert "/shared/env" in machine.sh(f"cat /tmp/{number}.html")
    assert machine.sh("stat -c %a /var/lib/vine-managerd") == "700\n"


# Another node daemon, far away, that alone has an environment.
PEER = """
[cluster]
managers = n1
[node]
name = n2
listen = 10.9.0.1:7200
cache_dir = /srv/n2
run_dir = /run/vine-n2
"""
FAR = """
cp -a /shared/env /shared/far
head -c 12000000 /dev/urandom > /shared/far/more
cp /shared/far/more /srv/same
systemd-run -q -u peer /usr/sbin/vined -c /given/n2.conf
until vine-env status --socket /run/vine-n2/vined.sock | grep -q connected; do
    sleep 0.05
done
vine-env stage --socket /run/vine-n2/vined.sock /shared/far
tc qdisc add dev lo root tbf rate 32mbit burst 256k latency 1s
"""
READ = """
/shared/far/bin/hello
cmp /shared/far/more /srv/same
"""


def test_a_task_starts_lazily(machine: Machine) -> None:
    """vine-lazy with its namespaces, and the loop device that changes its file."""
    (machine.given / "n2.conf").write_text(PEER)
    machine.sh(FAR)
    run = f"srun --vine-start=lazy --vine-env=/shared/far sh -euc '{READ}'"
    try:
        job = machine.begin(run, "alice")
        wait_for(lambda: "lazy-mounted" in said_by_vined(machine), 20, "the mount")
        machine.sh("systemctl restart vined")
        said = job.communicate(timeout=60)[0]
        assert job.returncode == 0, said
        wait_for(lambda: "vine-lazy" not in our_processes(machine), 20, "the hand-over")
    finally:
        machine.sh("tc qdisc del dev lo root; systemctl stop peer")
    assert "hello\n" in said
    log = said_by_vined(machine)
    (mounted,) = re.findall(r"event=lazy-mounted .* have=(\d+) pieces=(\d+)", log)
    assert int(mounted[0]) < int(mounted[1])
    assert "event=lazy-adopted" in log
    assert "event=handover " in log


def test_last_a_purge_during_a_job_leaves_nothing(machine: Machine) -> None:
    """But the job has its files to its end."""
    names = "vine-env-manager vine-env-node vine-env-slurm vine-env-python"
    with running_job(machine, "/shared/env"), running_job(machine, "/shared/env.sqsh"):
        machine.sh(f"dpkg --purge {names} 2>&1")
        assert our_mounts(machine) == []
    wait_for(lambda: our_processes(machine) == "", 10, "the last of our processes")
    loops = machine.sh("losetup -l -n -O BACK-FILE")
    assert "/var/cache/vine-env/" not in loops
    machine.sh("test ! -e /run/vine && test ! -e /var/cache/vine-env")
    units = machine.sh("systemctl list-units --all --no-legend '*vine*'")
    assert units == ""
