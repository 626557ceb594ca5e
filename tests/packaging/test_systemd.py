"""The packages on a machine that runs systemd and Slurm: the daemons do all of their
work under their units, and go without a trace."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
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
            wait_for(lambda: idle(machine), 30, "an idle node")
            wait_for(lambda: connected(machine), 10, "the manager")
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
    machine.sh("vine-env pack -q /shared/env -o /shared/env.sqsh", "alice")
    script = "grep ' /shared/env ' /proc/self/mountinfo; /shared/env/bin/hello"
    said = machine.sh(f'srun --vine-env=/shared/env.sqsh sh -c "{script}"', "alice")
    assert " - fuse.squashfuse " in said
    assert said.endswith("hello\n")
