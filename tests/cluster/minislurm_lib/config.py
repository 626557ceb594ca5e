"""The configuration files of a cluster, in a directory that overlays nodes' /etc."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from .layout import CONTROLLER, SHARED_GROUP, USERS, Layout, Settings, address

PLUGIN = "usr/lib/vine-env/vine_env.so"

# What each node must have in common; measured settings, see the notes at the odd ones.
SLURM_CONF = """\
ClusterName=minislurm
SlurmctldHost=ctl
SlurmUser=slurm
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
StateSaveLocation=/var/spool/slurm/state
SlurmdSpoolDir=/var/spool/slurm/d
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
SlurmctldDebug=verbose
SlurmdDebug=verbose
# No cgroups: they belong to the whole machine.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=5
ReturnToService=2
# Nodes are smaller than the machine they are on, and claim what NodeName says.
SlurmdParameters=config_overrides
PrologFlags=Alloc,Contain
PlugStackConfig=/etc/slurm/plugstack.conf
DefMemPerCPU=200
TmpFS=/local
MessageTimeout=10
BatchStartTimeout=10
PrologEpilogTimeout=65534
KillWait=3
InactiveLimit=0
MinJobAge=300
SlurmctldTimeout=30
SlurmdTimeout=30
TreeWidth=50
NodeName=n[1-{nodes}] CPUs=4 Boards=1 SocketsPerBoard=1 CoresPerSocket=4 \
ThreadsPerCore=1 RealMemory=2000 TmpDisk=1000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""

CGROUP_CONF = """\
CgroupPlugin=cgroup/v1
CgroupAutomount=no
ConstrainCores=no
ConstrainRAMSpace=no
"""

VINE_CONF = """\
[cluster]
managers = ctl:7110
[manager]
listen = 0.0.0.0:7110
transfer_log = /run/vine-transfers
[node]
listen = 0.0.0.0:7111
cache_dir = /local/vine
cache_max = 3G
source_caching = coherent
"""


def write_config(layout: Layout, settings: Settings) -> None:
    for name in ("slurm", "munge", "vine-env"):
        (layout.etc / name).mkdir(parents=True)
    _write_users(layout)
    _write_hosts(layout, settings)
    slurm = layout.etc / "slurm"
    (slurm / "slurm.conf").write_text(SLURM_CONF.format(nodes=settings.nodes))
    (slurm / "cgroup.conf").write_text(CGROUP_CONF)
    plugin = f"optional /{PLUGIN}\n" if (layout.install / PLUGIN).exists() else ""
    (slurm / "plugstack.conf").write_text(plugin)
    (layout.etc / "vine-env/vine-env.conf").write_text(VINE_CONF)
    _write_key(layout.etc / "vine-env/image.key", 32)
    _write_key(layout.etc / "munge/munge.key", 128)
    shutil.chown(layout.etc / "munge/munge.key", "munge", "munge")


def _write_key(path: Path, length: int) -> None:
    path.touch(mode=0o600)
    path.write_bytes(secrets.token_bytes(length))


def _write_users(layout: Layout) -> None:
    passwd = Path("/etc/passwd").read_text()
    group = Path("/etc/group").read_text()
    for user, number in USERS.items():
        passwd += f"{user}:x:{number}:{number}::/home/{user}:/bin/bash\n"
        group += f"{user}:x:{number}:\n"
        for home in (layout.home / user, layout.pfs_backing / "home" / user):
            home.mkdir(parents=True, mode=0o755)
            os.chown(home, number, number)
    group += f"{SHARED_GROUP[0]}:x:{SHARED_GROUP[1]}:{','.join(USERS)}\n"
    (layout.etc / "passwd").write_text(passwd)
    (layout.etc / "group").write_text(group)


def _write_hosts(layout: Layout, settings: Settings) -> None:
    nodes = [CONTROLLER, *(f"n{i}" for i in range(1, settings.nodes + 1))]
    lines = ["127.0.0.1 localhost", *(f"{address(node)} {node}" for node in nodes)]
    (layout.etc / "hosts").write_text("\n".join(lines) + "\n")
