"""Environments for cluster tests: small, made on /pfs as their owner would."""

from __future__ import annotations

import secrets
import shlex
from dataclasses import dataclass

from cluster import Cluster


@dataclass(frozen=True)
class Environment:
    """A directory on /pfs that looks like a venv, with a module and console script."""

    path: str
    owner: str

    @property
    def python(self) -> str:
        return f"{self.path}/bin/python"

    @property
    def script(self) -> str:
        """Its shebang names the environment's own python by its absolute path."""
        return f"{self.path}/bin/vine-hello"


MAKE = """
set -eu
path={quoted}
python3 -m venv --without-pip --symlinks "$path"
site=$(echo "$path"/lib/python3*/site-packages)
mkdir -p "$site/hello"
printf 'WORDS = "%s"\\n' {word} > "$site/hello/__init__.py"
cat > "$path/bin/vine-hello" <<'END'
#!{path}/bin/python
import hello
print(hello.WORDS, hello.__file__)
END
chmod 755 "$path/bin/vine-hello"
head -c {bytes} /dev/urandom > "$path/ballast"
"""


def make_environment(
    cluster: Cluster,
    word: str = "first",
    user: str = "vine1",
    ballast_bytes: int = 1 << 20,
    parent: str | None = None,
) -> Environment:
    """A fresh environment whose module `hello` says `word`; random bytes as ballast."""
    parent = parent or f"/pfs/home/{user}/envs"
    path = f"{parent}/env-{secrets.token_hex(4)}"
    script = MAKE.format(
        path=path, quoted=shlex.quote(path), word=word, bytes=ballast_bytes
    )
    cluster.sh("n1", f"mkdir -p {shlex.quote(parent)}\n{script}", user=user)
    return Environment(path, user)


def make_image(
    cluster: Cluster, env: Environment, name: str = "image.sqsh"
) -> tuple[str, int]:
    """Pack it by the daemon as its owner. Returns the file's path and size in bytes."""
    out = f"{env.path}-{name}"
    cluster.run("n1", "vine-env", "pack", env.path, "-o", out, user=env.owner)
    size = int(cluster.run("n1", "stat", "-c", "%s", out, user=env.owner).out)
    return out, size


def totals(cluster: Cluster) -> dict[str, int]:
    """Bytes moved since the daemons' start, summed over the nodes, by where from."""
    sums = {"bytes_peer": 0, "bytes_origin": 0, "bytes_built": 0}
    for node in cluster.nodes:
        status = cluster.status(node)["node"]
        for key in sums:
            sums[key] += status[key]
    return sums


def moved(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {key: after[key] - before[key] for key in before}


__all__ = ["Environment", "make_environment", "make_image", "moved", "totals"]
