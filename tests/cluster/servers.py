"""Servers of files on a node of a cluster: an sshd that vine1 logs in to by key, and an
nginx with a certificate that all nodes' daemons trust."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster import Cluster
from fileservers import Authority, ssh_keygen

SSH_PORT = 2222
TLS_PORT = 4443


@dataclass
class Servers:
    """What a node serves to users of their own keys, and by https to all."""

    cluster: Cluster
    node: str
    folder: str  # on that node
    home: Path

    def ssh_log(self) -> str:
        return self.cluster.sh(self.node, f"cat {self.folder}/sshd.log")

    def logins(self) -> int:
        return self.ssh_log().count("Accepted publickey for vine1")

    def sftp(self, name: str, fragment: str = "") -> str:
        return f"sftp://{self.node}:{SSH_PORT}{self.folder}/{name}{fragment}"

    def https(self, name: str) -> str:
        return f"https://{self.node}:{TLS_PORT}/{name}"

    def pack(self, path: str) -> str:
        """The name of a packed image of it."""
        name = f"{secrets.token_hex(4)}.sqsh"
        self.cluster.run(
            self.node,
            "vine-env",
            "pack",
            path,
            "-o",
            f"{self.folder}/{name}",
            "--local",
        )
        self.cluster.run(self.node, "chmod", "644", f"{self.folder}/{name}")
        return name

    def digest(self, name: str) -> str:
        return self.cluster.sh(self.node, f"sha256sum {self.folder}/{name}").split()[0]


SSHD = """Port {port}
HostKey {folder}/host_key
PidFile {folder}/sshd.pid
UsePAM no
PasswordAuthentication no
StrictModes no
Subsystem sftp internal-sftp
"""

NGINX = """user root; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{}}
http {{ access_log {folder}/access.log; server {{ listen {port} ssl; root {folder};
ssl_certificate {folder}/{node}.pem; ssl_certificate_key {folder}/{node}.key; }} }}
"""


@contextmanager
def serving(vine: Cluster, node: str, tmp_path: Path) -> Iterator[Servers]:
    """With keys of vine1's own; `tmp_path` is a folder for the authority."""
    folder = f"/var/tmp/served-{secrets.token_hex(4)}"
    inside = vine.root(node) / folder[1:]
    home = vine.layout.home / "vine1"
    vine.run(node, "mkdir", "-p", folder, "/run/sshd")
    ssh_keygen(inside / "host_key")
    (inside / "sshd_config").write_text(SSHD.format(port=SSH_PORT, folder=folder))
    (home / ".ssh").mkdir(exist_ok=True)
    ssh_keygen(home / ".ssh" / "id_ed25519")
    shutil.copy(home / ".ssh/id_ed25519.pub", home / ".ssh/authorized_keys")
    made = Servers(vine, node, folder, home)
    know(made, (inside / "host_key.pub").read_text())
    for file in Authority(tmp_path / "ca").issue(node):
        shutil.copy(file, inside)
    (inside / "nginx.conf").write_text(
        NGINX.format(port=TLS_PORT, folder=folder, node=node)
    )
    ca = (tmp_path / "ca" / "ca.pem").read_text()
    start = (
        f"/usr/sbin/sshd -f {folder}/sshd_config -E {folder}/sshd.log\n"
        f"/usr/sbin/nginx -c {folder}/nginx.conf -p {folder} 2> {folder}/stderr.log\n"
    )
    vine.sh(node, start)
    trust(vine, ca)
    try:
        yield made
    finally:
        vine.sh(node, f"kill $(cat {folder}/sshd.pid {folder}/nginx.pid)", check=False)
        trust(vine, "")
        vine.evict_all()
        shutil.rmtree(home / ".ssh")
        vine.sh(node, f"rm -rf {folder}")


def know(servers: Servers, key: str) -> None:
    """known_hosts of vine1, and who owns his keys."""
    (servers.home / ".ssh" / "known_hosts").write_text(
        f"[{servers.node}]:{SSH_PORT} {key}\n"
    )
    servers.cluster.run("n1", "chown", "-R", "vine1:vine1", "/home/vine1/.ssh")


def trust(cluster: Cluster, ca: str) -> None:
    """The authority of https on all nodes; none: as it was."""
    conf = "/etc/vine-env/vine-env.conf"
    for node in cluster.nodes:
        (cluster.root(node) / "etc/vine-env/test-ca.pem").write_text(ca)
        edit = (
            f"sed -i '/^\\[node\\]/a remote_ca_file = /etc/vine-env/test-ca.pem' {conf}"
            if ca
            else f"sed -i '/^remote_ca_file/d' {conf}; rm /etc/vine-env/test-ca.pem"
        )
        cluster.sh(node, edit)
        cluster.daemon(node, "stop")
        cluster.daemon(node, "start")
