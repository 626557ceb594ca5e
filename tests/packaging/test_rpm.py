"""The rpm spec: what it builds is what the Debian packages hold, and it goes without a
trace. rpmbuild runs here on Debian, so what packages need is not looked at."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPO
from scratch_root import ScratchRoot
from test_deb import OF_THE_SYSTEM

NAMES = ("vine-env-manager", "vine-env-node", "vine-env-python", "vine-env-slurm")
# Quick to compile; no package of debug symbols.
FAST = ["--nodeps", "--define", "vine_cflags -O1", "--define", "debug_package %{nil}"]


@pytest.fixture(scope="session")
def rpms() -> Iterator[dict[str, Path]]:
    """rpm packages of this tree, by name."""
    with tempfile.TemporaryDirectory(prefix="vine-rpm-") as folder:
        done = subprocess.run(
            [REPO / "contrib/packaging/make-rpm", f"{folder}/out", *FAST],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found = Path(folder, "out").glob("*.rpm")
        yield {path.name.partition("-0.1.0")[0]: path for path in found}


def rpm(*words: str | Path) -> str:
    done = subprocess.run(["rpm", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_they_hold_what_the_debian_packages_hold(
    rpms: dict[str, Path], packages: dict[str, Path]
) -> None:
    assert sorted(rpms) == sorted(NAMES)
    for name in NAMES:
        listed = rpm("-qpl", rpms[name]).split()
        files = {path.rpartition("/")[2].removesuffix(".gz") for path in listed}
        done = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", packages[name]], stdout=subprocess.PIPE
        )
        tar = ["tar", "-t"]
        shown = subprocess.run(tar, input=done.stdout, capture_output=True, check=True)
        theirs = {
            path.rpartition("/")[2].removesuffix(".gz")
            for path in shown.stdout.decode().split()
            if "/share/doc/" not in path and not path.endswith("/")
        }
        assert theirs - files == set(), name


def test_what_they_need_is_said(rpms: dict[str, Path]) -> None:
    node = rpm("-qp", "--requires", rpms["vine-env-node"])
    for need in ("vine-env-slurm", "munge", "fuse3", "squashfuse"):
        assert need in node
    assert "noarch" in rpms["vine-env-python"].name


def test_installed_upgraded_and_removed(
    root: ScratchRoot, rpms: dict[str, Path]
) -> None:
    before = {path for path in root.written() if not OF_THE_SYSTEM.match(path)}
    for path in rpms.values():
        (root.given / path.name).write_bytes(path.read_bytes())
    files = " ".join(f"/given/{path.name}" for path in rpms.values())
    root.sh(f"rpm -i --nodeps {files}")
    for program in ("vined", "vine-managerd", "vine-env"):
        assert "0.1.0" in root.run(program, "--version")
    assert "_vine-env" in root.run("getent", "passwd", "_vine-env")
    assert "helper_user = _vine-env" in root.run("cat", "/etc/vine-env/vine-env.conf")
    cache = "/var/cache/vine-env"
    root.sh(
        f"mkdir -p {cache}/objects/ab /run/vine/mnt /run/vine/ended;"
        f"touch {cache}/objects/ab/image {cache}/lock /run/vine/vined.sock;"
        "touch /etc/vine-env/image.key"
    )
    root.sh(f"rpm -U --nodeps --force {files}")  # an upgrade: all of that stays
    root.sh(f"test -e {cache}/objects/ab/image && test -e /etc/vine-env/image.key")
    root.sh("mkdir -p /run/vine/job/7 /run/vine/jobs/7")
    root.sh(f"rpm -e --nodeps {' '.join(reversed(NAMES))}")
    for gone in (cache, "/run/vine", "/etc/vine-env", "/usr/lib/vine-env"):
        assert root.try_run("test", "-e", gone).returncode != 0, gone
    assert root.try_run("getent", "passwd", "_vine-env").returncode != 0
    left = {path for path in root.written() if not OF_THE_SYSTEM.match(path)} - before
    assert {path for path in left if "rpm" not in path} == set()


def test_a_removal_does_not_follow_a_link(
    root: ScratchRoot, rpms: dict[str, Path]
) -> None:
    for path in rpms.values():
        (root.given / path.name).write_bytes(path.read_bytes())
    root.sh("rpm -i --nodeps /given/*.rpm")
    root.sh("mkdir -p /srv/other/objects; touch /srv/other/objects/x /srv/other/lock")
    root.sh("ln -s /srv/other /var/cache/vine-env")
    root.sh(f"rpm -e --nodeps {' '.join(reversed(NAMES))}")
    root.sh("test -e /srv/other/objects/x && test -L /var/cache/vine-env")
