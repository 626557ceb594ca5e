"""The Debian packages are installed, upgraded, removed and purged."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from scratch_root import ScratchRoot

NAMES = ("vine-env-manager", "vine-env-node", "vine-env-python", "vine-env-slurm")
CONF = "/etc/vine-env/vine-env.conf"
ENABLED = "/etc/systemd/system/multi-user.target.wants"
# What dpkg and its helpers write for themselves.
OF_THE_SYSTEM = re.compile(
    r"/usr/sbin/policy-rc\.d$|/var/lib/dpkg/|/var/log/|/var/cache/|/var/lib/systemd/"
    r"|/etc/(passwd|group|shadow|gshadow|subuid|subgid)-?$|/etc/ld\.so\.cache$"
    r"|/etc/\.pwd\.lock$|/run/adduser$"
)


def install(root: ScratchRoot, packages: dict[str, Path]) -> str:
    for path in packages.values():
        (root.given / path.name).write_bytes(path.read_bytes())
    names = " ".join(f"/given/{packages[name].name}" for name in NAMES)
    return root.sh(f"dpkg --force-confold -i {names} 2>&1")


def newer(package: Path, folder: Path) -> Path:
    """The same package with a higher version and a configuration that says more."""
    tree = folder / package.stem
    subprocess.run(["dpkg-deb", "-R", package, tree], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(control.read_text().replace("0.1.0-1", "0.1.0-2"))
    conf = tree / CONF[1:]
    if conf.exists():
        conf.write_text(conf.read_text() + "# said by the new version\n")
    out = folder / package.name.replace("0.1.0-1", "0.1.0-2")
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-b", tree, out],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return out


def test_there_are_the_packages(packages: dict[str, Path]) -> None:
    assert sorted(packages) == sorted(NAMES)


def test_install(root: ScratchRoot, packages: dict[str, Path]) -> None:
    install(root, packages)
    for program in ("vined", "vine-managerd", "vine-env"):
        assert re.search(r"\d+\.\d+\.\d+", root.run(program, "--version"))
    programs = root.sh("ls /usr/libexec/vine-env").split()
    assert len(programs) == 5
    programs.remove("unpack_pixi.py")  # vine-env's own, for Python
    pages = [
        *programs,
        "vined",
        "vine-managerd",
        "vine-env",
        "vine_env",
        "vine-env.conf",
    ]
    for page in pages:
        assert root.run("man", "-w", page).strip()
    for unit in ("vined", "vine-managerd"):
        assert f"{unit}.service" in root.sh(f"ls {ENABLED}")
    assert "_vine-env" in root.run("getent", "passwd", "_vine-env")
    assert "nologin" in root.run("getent", "passwd", "_vine-env")
    assert "helper_user = _vine-env" in root.run("cat", CONF)
    # The plugin is one that this machine's Slurm can load, and says what it is.
    symbols = root.sh("nm -D --defined-only /usr/lib/vine-env/vine_env.so")
    assert "plugin_type" in symbols
    depends = root.run("dpkg-query", "-W", "-f=${Depends}", "vine-env-slurm")
    release = re.search(r"slurm-client \(<< (\d+\.\d+)\.99\)", depends)
    assert release, depends
    have = root.run("dpkg-query", "-W", "-f=${Version}", "slurm-client")
    assert have.startswith(f"{release[1]}.")


def test_the_python_package(
    root: ScratchRoot, packages: dict[str, Path], tmp_path: Path
) -> None:
    """Every Python of the system has it, and pip knows of it; nothing was fetched."""
    install(root, packages)
    show = "from importlib.metadata import version; print(version('vine-env'))"
    assert root.run("/usr/bin/python3", "-c", show).strip() == "0.1.0"
    folder = "/usr/lib/python3/dist-packages/vine_env"
    assert ".pyc" in root.run("ls", f"{folder}/__pycache__")
    deb = packages["vine-env-python"]
    subprocess.run(["dpkg-deb", "-x", deb, tmp_path], check=True)
    done = subprocess.run(
        [sys.executable, "-c", "import vine_env; print(vine_env.__file__)"],
        env={"PYTHONPATH": f"{tmp_path}/usr/lib/python3/dist-packages"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(str(tmp_path))
    depends = root.run("dpkg-query", "-W", "-f=${Depends}", "vine-env-python")
    assert "python3" in depends and "parsl" not in depends


def test_another_release_of_slurm_is_refused(
    root: ScratchRoot, packages: dict[str, Path], tmp_path: Path
) -> None:
    """A plugin must not be loaded by a Slurm that it was not made for."""
    tree = tmp_path / "tree"
    subprocess.run(["dpkg-deb", "-R", packages["vine-env-slurm"], tree], check=True)
    control = tree / "DEBIAN/control"
    text = re.sub(
        r"slurm-client \(<< \S+\)", "slurm-client (<< 1.0)", control.read_text()
    )
    control.write_text(text)
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-b", tree, root.given / "other.deb"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    done = root.try_run("dpkg", "-i", "/given/other.deb")
    assert done.returncode != 0
    assert "slurm-client" in done.stderr


def test_upgrade(root: ScratchRoot, packages: dict[str, Path], tmp_path: Path) -> None:
    install(root, packages)
    root.sh(f"sed -i 's/^#managers =.*/managers = head1/' {CONF}")
    before = root.run("cat", CONF)
    assert "managers = head1" in before
    plugin = "/usr/lib/vine-env/vine_env.so"
    inode = root.run("stat", "-c", "%i", plugin)
    said = install(root, {n: newer(p, tmp_path) for n, p in packages.items()})
    assert "0.1.0-2" in said
    assert root.run("cat", CONF) == before
    # A new file: what runs with the old one mapped is not disturbed.
    assert root.run("stat", "-c", "%i", plugin) != inode
    versions = root.sh("dpkg-query -W -f='${Version}\\n' " + " ".join(NAMES))
    assert versions.split() == ["0.1.0-2"] * len(NAMES)


# Another's files, and a system's: what a cache has is in both.
OTHERS = {
    "a directory of a user": "rm -rf /scratch/vine; cp -a /srv/hers /scratch/vine",
    "a link to it": "rm -rf /scratch/vine; ln -s /srv/hers /scratch/vine",
    "a link to root's": "rm -rf /scratch/vine; ln -s /srv/roots /scratch/vine",
    "a directory without a lock": "rm /scratch/vine/lock",
}


def test_a_purge_keeps_to_what_the_daemon_made(
    root: ScratchRoot, packages: dict[str, Path]
) -> None:
    """The directory is known by a name, and who may write above it can change what it
    names once the daemon is gone."""
    install(root, packages)
    root.sh("cp /var/lib/dpkg/info/vine-env-node.postrm /given/postrm")
    root.sh("dpkg -r vine-env-node; mkdir -m 1777 /scratch")
    made = "rm -rf {0}; mkdir -p {0}/objects {0}/tmp; touch {0}/objects/x {0}/lock"
    folders = ("/scratch/vine", "/srv/hers", "/srv/roots")
    for other in OTHERS.values():
        for slash in ("", "/"):
            root.sh("\n".join(made.format(name) for name in folders))
            root.sh(f"chown -R games /srv/hers; {other}")
            line = f"cache_dir = /scratch/vine{slash}"
            root.sh(f"sed -i '/^cache_dir/d; /^.node.$/a {line}' {CONF}")
            root.sh("/given/postrm remove; /given/postrm purge")
            root.sh("test -e /scratch/vine/objects/x && test -d /scratch/vine/tmp")
            root.sh("test -e /srv/hers/objects/x && test -e /srv/roots/objects/x")


def test_a_purge_can_be_repeated(root: ScratchRoot, packages: dict[str, Path]) -> None:
    """dpkg does so when one was cut off."""
    install(root, packages)
    name = "/var/lib/dpkg/info/vine-env-node.postrm"
    root.sh(f"cp {name} /given/postrm; dpkg --purge vine-env-node")
    for _ in range(2):
        root.sh("/given/postrm remove; /given/postrm purge")
    root.sh("test ! -e /var/lib/vine-env-node && test ! -e /var/cache/vine-env")


@pytest.mark.parametrize("cache", ["/var/cache/vine-env", "/scratch/vine"])
def test_removed_and_purged(
    root: ScratchRoot, packages: dict[str, Path], cache: str
) -> None:
    """Removed: what took time to fill, and what was written by hand, is kept. Purged:
    nothing is left of it, and nothing of anybody else's goes."""
    before = {path for path in root.written() if not OF_THE_SYSTEM.match(path)}
    install(root, packages)
    root.sh(f"sed -i 's,^#cache_dir = .*,cache_dir = {cache},' {CONF}")
    root.sh("head -c 32 /dev/urandom > /etc/vine-env/image.key")
    digest = "ab" * 32
    root.sh(
        f"mkdir -p {cache}/objects/{digest} {cache}/partial {cache}/tmp;"
        f"touch {cache}/objects/{digest}/image {cache}/lock {cache}/leases.json;"
        "mkdir -p /run/vine/mnt /run/vine/env /run/vine/lazy /run/vine/ended;"
        "touch /run/vine/ended/12 /run/vine/vined.sock"
    )
    if not cache.startswith("/var"):
        root.sh("echo mine > /scratch/other")
    root.sh(f"dpkg -r {' '.join(NAMES)} 2>&1")
    assert root.try_run("vined", "--version").returncode != 0
    root.sh(f"test -e {cache}/objects/{digest}/image && test -e {CONF}")
    root.sh("test ! -e /run/vine")
    # The one with the configuration first: where the cache is was noted.
    root.sh(f"dpkg --purge {' '.join(reversed(NAMES))} 2>&1")
    left = {path for path in root.written() if not OF_THE_SYSTEM.match(path)} - before
    assert left == (set() if cache.startswith("/var") else {"/scratch/other"})
    assert not [path for path in root.written() if "vine" in path.rpartition("/")[2]]
    assert root.try_run("getent", "passwd", "_vine-env").returncode != 0
    assert root.try_run("test", "-e", "/etc/vine-env").returncode != 0
    assert root.try_run("test", "-e", cache).returncode != 0
