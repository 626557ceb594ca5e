"""A packed image on an sftp server, to 8 nodes: against sftp to one node.

The server is the controller's node. What one node needs for the file by OpenSSH's own
sftp is measured in the same run, and so is the broadcast: the same image, of a shared
file system without costs. One connection must do, and the whole takes no longer than
1.2 x the one and the other together.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
from cluster import Cluster
from common import Bound
from environments import make_environment, make_image

sys.path.insert(0, str(common.REPO / "tests/lib"))

from servers import SSH_PORT, Servers, serving  # noqa: E402

SERVER = "ctl"
SHARE_OF_SFTP = 1.2


def image_bytes() -> int:
    return (40 if common.quick() else 200) << 20


def stage(cluster: Cluster, source: str) -> float:
    """Seconds until all nodes have it, none of which had anything before."""
    cluster.evict_all()
    began = time.monotonic()
    cluster.run("n1", "vine-env", "stage", source, "--nodes", "all", user="vine1")
    return time.monotonic() - began


def by_hand(servers: Servers, name: str) -> float:
    """Seconds of sftp to n1's disk."""
    target = "/local/by-hand"
    get = f"sftp -q -P {SSH_PORT} {SERVER}:{servers.folder}/{name} {target}"
    servers.cluster.sh("n1", "install -d -o vine1 /local/by-hand")
    began = time.monotonic()
    servers.cluster.sh("n1", get, user="vine1")
    taken = time.monotonic() - began
    servers.cluster.sh("n1", f"rm -r {target}")
    return taken


def run() -> dict[str, Any]:
    rows = []
    with (
        common.running_cluster(8, pfs={}) as cluster,
        tempfile.TemporaryDirectory() as folder,
        serving(cluster, SERVER, Path(folder)) as servers,
    ):
        env = make_environment(cluster, ballast_bytes=image_bytes())
        image, size = make_image(cluster, env)
        name = image.rpartition("/")[2]
        target = f"{servers.folder}/{name}"  # that node has no /pfs
        shutil.copy(cluster.root("n1") / image[1:], cluster.root(SERVER) / target[1:])
        cluster.run(SERVER, "chmod", "644", target)
        for _ in range(common.rounds()):
            sftp = by_hand(servers, name)
            before = servers.logins()
            remote = stage(cluster, servers.sftp(name))
            rows.append(
                {
                    "sftp_s": sftp,
                    "broadcast_s": stage(cluster, image),
                    "remote_s": remote,
                    "logins": servers.logins() - before,
                }
            )
    keys = ["sftp_s", "broadcast_s", "remote_s"]
    print(
        common.markdown(
            ["sftp to one, s", "broadcast, s", "sftp source to 8, s", "logins"],
            [[f"{r[k]:.2f}" for k in keys] + [str(r["logins"])] for r in rows],
        )
    )
    share = common.median(
        [r["remote_s"] / (SHARE_OF_SFTP * r["sftp_s"] + r["broadcast_s"]) for r in rows]
    )
    bounds = [
        Bound("sftp source to 8 nodes, of 1.2 x sftp to one + broadcast", share, 1.0),
        Bound("its connections", max(r["logins"] for r in rows), 1),
    ]
    return {"bytes": size, "rounds": rows, "bounds": bounds}


if __name__ == "__main__":
    sys.exit(common.main("remote", run))
