"""contrib/ROLLOUT.md, step by step as far as one machine goes, beside a running job."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPO
from machine import Machine, wait_for
from test_deb import newer
from test_systemd import (
    CGROUP_CONF,
    SLURM,
    SLURM_CONF,
    connected,
    idle,
    jobs,
    our_mounts,
    our_processes,
    running_job,
)

CONF = "/etc/vine-env/vine-env.conf"
FLAGS = "PrologFlags=Alloc,Contain"
PLUGIN = "optional /usr/lib/vine-env/vine_env.so"
ROLLOUT = (REPO / "contrib/ROLLOUT.md").read_text()
INSTALLED = ("manager", "node", "slurm")
UPGRADE = (
    "apt install -y --only-upgrade -o Dpkg::Options::=--force-confold ./vine-env-*.deb"
)
PURGE = "apt purge -y 'vine-env-*'"
PLAIN = "touch /home/alice/started; until test -e /home/alice/go; do sleep 0.1; done"


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A node of a cluster that knows nothing of vine-env."""
    with tempfile.TemporaryDirectory(prefix="vine-machine-") as folder:
        machine = Machine(Path(folder))
        try:
            machine.start()
            conf = SLURM_CONF.replace(f"{FLAGS}\n", "")
            (machine.given / "slurm.conf").write_text(conf)
            (machine.given / "cgroup.conf").write_text(CGROUP_CONF)
            machine.sh(SLURM)
            wait_for(lambda: idle(machine), 30, "an idle node")
            yield machine
        finally:
            machine.stop()


def as_written(machine: Machine, command: str, folder: str = "/given") -> str:
    """Run a command that is in the document."""
    assert command in ROLLOUT
    return machine.sh(f"cd {folder}; {command} 2>&1")


def give(machine: Machine, packages: dict[str, Path]) -> None:
    for old in machine.given.glob("*.deb"):
        old.unlink()
    for path in packages.values():
        (machine.given / path.name).write_bytes(path.read_bytes())


def no_fault(machine: Machine) -> None:
    said = as_written(machine, "vine-env doctor")
    assert "FAIL" not in said, said


def roll_out(machine: Machine) -> None:
    as_written(machine, "apt install -y ./vine-env-slurm*.deb ./vine-env-node*.deb")
    machine.sh("cd /given; apt install -y ./vine-env-manager*.deb 2>&1")
    machine.sh(f"sed -i 's/^#managers =.*/managers = n1/' {CONF}")
    as_written(machine, "head -c 32 /dev/urandom > image.key")
    as_written(machine, "install -m 600 image.key /etc/vine-env/image.key")
    for name in ("vine-managerd", "vined"):
        as_written(machine, f"systemctl enable {name} && systemctl restart {name}")
    wait_for(lambda: connected(machine), 10, "the manager")
    said = machine.try_sh("vine-env doctor").stdout
    faults = [line.split(":")[0] for line in said.splitlines() if "FAIL" in line]
    assert faults == ["FAIL  plugstack.conf"], said
    as_written(machine, "vine-env stage /shared/envs/some")
    stage = "vine-env stage /shared/envs/some --nodes all"
    as_written(machine, f"{stage} && vine-env status --cluster")


def test_the_rollout(
    machine: Machine, packages: dict[str, Path], tmp_path: Path
) -> None:
    machine.sh("mkdir /shared/envs; cp -a /shared/env /shared/envs/some")
    before = machine.shows("slurmctld", "MainPID", "NRestarts")
    plain = machine.begin(f"srun sh -c '{PLAIN}'", "alice")
    started = "test -e /home/alice/started"
    wait_for(lambda: machine.try_sh(started).returncode == 0, 20, "the job")

    give(machine, packages)
    roll_out(machine)
    assert PLUGIN in ROLLOUT
    machine.sh(f"echo '{PLUGIN}' >> /etc/slurm/plugstack.conf")
    late = "warn  slurmd: it started before '/etc/slurm/plugstack.conf' was changed"
    assert late in as_written(machine, "vine-env doctor")
    as_written(machine, "systemctl restart slurmd")
    wait_for(lambda: machine.try_sh("test -e /run/slurmd.pid").returncode == 0, 9, "it")
    assert "ok    slurmd: started after" in as_written(machine, "vine-env doctor")
    with running_job(machine, "/shared/env"):
        pass
    wait_for(lambda: jobs(machine) == [], 10, "the job's epilog")
    assert f"`{FLAGS}`" in ROLLOUT
    machine.sh(f"echo {FLAGS} >> /etc/slurm/slurm.conf")
    as_written(machine, "scontrol reconfigure")
    no_fault(machine)
    with running_job(machine, "/shared/env"):
        give(machine, {n: newer(p, tmp_path) for n, p in packages.items()})
        as_written(machine, UPGRADE)
    have = machine.sh("dpkg-query -W -f='${Package} ${Version}\\n' 'vine-env-*'")
    assert have.splitlines() == [f"vine-env-{n} 0.1.0-2" for n in INSTALLED]
    assert "managers = n1" in machine.sh(f"cat {CONF}")
    no_fault(machine)

    machine.sh("sed -i '/vine_env.so/d' /etc/slurm/plugstack.conf")
    as_written(machine, PURGE)
    machine.sh(f"sed -i '/^{FLAGS}/d' /etc/slurm/slurm.conf; scontrol reconfigure")
    machine.sh("srun true", "alice")
    assert our_mounts(machine) == []
    assert our_processes(machine) == ""

    machine.sh("touch /home/alice/go", "alice")
    assert plain.wait(20) == 0, plain.communicate()[0]
    assert machine.shows("slurmctld", "MainPID", "NRestarts") == before
