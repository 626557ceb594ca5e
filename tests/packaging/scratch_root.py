"""This machine's root file system, below a layer that takes all that is written."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

# Everything is mounted in a namespace that ends with the command: nothing is left over.
RUN = """
set -eu
base=$1; shift
layers="lowerdir=/,upperdir=$base/upper,workdir=$base/work"
mount -t overlay overlay -o "$layers" "$base/root"
mount --bind /dev "$base/root/dev"
mount -t proc proc "$base/root/proc"
mkdir -p "$base/root/given"
mount --bind "$base/given" "$base/root/given"
exec chroot "$base/root" "$@"
"""
# No daemon is started there.
POLICY = "usr/sbin/policy-rc.d"


class ScratchRoot:
    """Commands in it see this machine's files and leave them alone."""

    def __init__(self, base: Path) -> None:
        self.base = base
        for name in ("upper", "work", "root", "given"):
            (base / name).mkdir()
        self.upper = base / "upper"
        self.given = base / "given"  # seen as /given
        policy = self.upper / POLICY
        policy.parent.mkdir(parents=True)
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)

    def try_run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["unshare", "-m", "--propagation", "private", "sh", "-c", RUN]
            + ["sh", str(self.base), *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "DEBIAN_FRONTEND": "noninteractive",
                "LC_ALL": "C.UTF-8",
            },
            stdin=subprocess.DEVNULL,
        )

    def run(self, *command: str) -> str:
        done = self.try_run(*command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def sh(self, script: str) -> str:
        return self.run("sh", "-euc", script)

    def written(self) -> set[str]:
        """Paths of what is in the layer, without directories and deletions."""
        found = set()
        for path in self.upper.rglob("*"):
            mode = path.lstat().st_mode
            if not stat.S_ISDIR(mode) and not stat.S_ISCHR(mode):
                found.add("/" + str(path.relative_to(self.upper)))
        return found
