"""This machine's root file system with systemd as its first process, in namespaces.

Units run there with all that their words ask for; whatever runs outside has another
first process or not. What is written goes to a layer above the root file system.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
# Linux ends all processes of a PID namespace, its mounts and its links with its first
# process. Only the control groups have to be removed. The end of stdin says when: it
# comes, too, if the test was killed.
KEEPER = """
set -u
base=$1 inside=$2
mount -t cgroup2 cgroup2 "$base/cgroup" || exit 1
own=$base/cgroup/vine-machine-$$
mkdir "$own" || exit 1
(
    echo 0 > "$own/cgroup.procs" &&
    exec unshare --pid --fork --kill-child --net --uts --ipc --cgroup --mount \
        --propagation private sh -c "$inside" sh "$base" < /dev/null
) &
echo $!
read -r _
kill -9 $! 2> /dev/null
wait
tries=0
until find "$own" -depth -type d -exec rmdir {} + || [ $tries -ge 100 ]; do
    tries=$((tries + 1))
    sleep 0.05
done 2> /dev/null
test ! -d "$own"
"""
INSIDE = """
set -eu
base=$1 root=$1/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$base/upper,workdir=$base/work" "$root"
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for name in null zero full random urandom tty fuse loop-control; do
    cp -a "/dev/$name" "$root/dev/"
done
for number in $(seq 0 255); do
    mknod -m 600 "$root/dev/loop$number" b 7 "$number"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount -t tmpfs tmpfs "$root/var/tmp"
mkdir -p "$root/given" "$root/.outside"
mount --bind "$base/given" "$root/given"
hostname n1
ip link set lo up
ip link add eth0 type veth peer name eth1
ip addr add 10.9.0.1/24 dev eth0
ip link set eth0 up
ip link set eth1 up
cd "$root"
pivot_root . .outside
umount -l /.outside
mount --make-rshared /
exec env -i container=vine-test PATH="$PATH" \
    /lib/systemd/systemd --system --unit=multi-user.target > /dev/null 2>&1
"""
FILES = {
    "etc/hostname": "n1\n",
    "etc/hosts": "127.0.0.1 localhost\n10.9.0.1 n1\n",
    "etc/fstab": "",
    # Packages start their daemons, whatever this machine's says.
    "usr/sbin/policy-rc.d": "#!/bin/sh\nexit 0\n",
}


# Not everywhere, and not needed by anybody here.
MASKED = ("dbus.service", "dbus.socket", "systemd-logind.service")


class Machine:
    def __init__(self, base: Path) -> None:
        self.base = base
        self.given = base / "given"  # seen as /given
        self.keeper: subprocess.Popen[str] | None = None
        self.first = 0
        for name in ("upper/etc/systemd/system", "work", "root", "given", "cgroup"):
            (base / name).mkdir(parents=True)
        for name, text in FILES.items():
            path = base / "upper" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755 if text.startswith("#!") else 0o644)
        units = base / "upper/etc/systemd/system"
        for name in MASKED:
            (units / name).symlink_to("/dev/null")
        os.setxattr(units, "trusted.overlay.opaque", b"y")

    def start(self) -> None:
        """Returns when all that is to start has started."""
        self.keeper = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", KEEPER]
            + ["sh", str(self.base), INSIDE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the test, which ends it then
            env={"PATH": PATH},
        )
        assert self.keeper.stdout is not None
        outer = int(self.keeper.stdout.readline())
        children = Path(f"/proc/{outer}/task/{outer}/children")

        def runs_systemd() -> bool:
            assert Path(f"/proc/{outer}").exists(), "the machine did not start"
            self.first = int((children.read_text().split() or ["0"])[0])
            name = Path(f"/proc/{self.first}/comm")
            return self.first > 0 and name.read_text() == "systemd\n"

        wait_for(runs_systemd, 20, "systemd")
        wait_for(
            lambda: self.try_sh("test -S /run/systemd/private").returncode == 0,
            20,
            "systemd's socket",
        )
        state = self.try_sh("systemctl is-system-running --wait").stdout
        # Degraded: something else that this machine has cannot run in namespaces.
        assert state in ("running\n", "degraded\n"), state

    def stop(self) -> None:
        if self.keeper is None:
            return
        assert self.keeper.stdin is not None
        self.keeper.stdin.close()
        assert self.keeper.wait(30) == 0, "the control groups could not be removed"
        assert self.keeper.stdout is not None
        self.keeper.stdout.close()
        self.keeper = None

    def command(self, script: str, user: str = "root") -> list[str]:
        become = [] if user == "root" else ["setpriv", "--init-groups"]
        if become:
            become += [f"--reuid={user}", f"--regid={user}"]
        environment = [
            f"PATH={PATH}",
            "LC_ALL=C.UTF-8",
            "DEBIAN_FRONTEND=noninteractive",
        ]
        enter = ["nsenter", "-t", str(self.first), "-a", "env", "-i", *environment]
        return [*enter, *become, "sh", "-euc", f"cd /tmp; {script}"]

    def try_sh(
        self, script: str, user: str = "root"
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(script, user),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )

    def sh(self, script: str, user: str = "root") -> str:
        done = self.try_sh(script, user)
        assert done.returncode == 0, f"{script}: {done.stdout}{done.stderr}"
        return done.stdout

    def begin(self, script: str, user: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(script, user),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def shows(self, unit: str, *names: str) -> list[str]:
        """Properties of a unit, in the order in which they are asked for."""
        return [self.sh(f"systemctl show -P {name} {unit}").strip() for name in names]

    def mounts(self) -> list[str]:
        """The first process's, as in mountinfo(5)."""
        return Path(f"/proc/{self.first}/mountinfo").read_text().splitlines()


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not after {seconds} s"
        time.sleep(0.05)
