"""Real servers for tests: sshd with key logins, nginx with TLS, certificates."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
    return port


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the server ended: {process.args!r}"
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise TimeoutError(f"nothing listens on port {port}")


def ssh_keygen(path: Path, kind: str = "ed25519", passphrase: str = "") -> str:
    """Make a key; the public half as a line."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "", "-f", str(path)],
        check=True,
    )
    return path.with_suffix(".pub").read_text().strip()


class Server:
    """A server process; all of it ends with stop()."""

    def __init__(self, command: Sequence[str], port: int) -> None:
        self.command = list(command)
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, start_new_session=True)
        wait_for_port(self.port, self.process)

    def stop(self) -> None:
        """At once: connections break."""
        if self.process is None:
            return
        for pid in self.members():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.process = None

    def members(self) -> list[int]:
        """The server's processes: its session's, and their children's sessions."""
        assert self.process is not None
        parents: dict[int, int] = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
        found = [self.process.pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found


def sshd(folder: Path, wrapper: Sequence[str], authorized: Path) -> Server:
    """An sshd whose host key is folder/host_key (made, if it is not there)."""
    folder.mkdir(exist_ok=True)
    Path("/run/sshd").mkdir(exist_ok=True)
    if not (folder / "host_key").exists():
        ssh_keygen(folder / "host_key")
    port = free_port()
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\n"
        f"PidFile none\nUsePAM no\nPasswordAuthentication no\nStrictModes no\n"
        f"KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
        f"AuthorizedKeysFile {authorized}\nSubsystem sftp internal-sftp\n"
    )
    command = ["/usr/sbin/sshd", "-D", "-e", "-f", str(folder / "sshd_config")]
    return Server([*wrapper, *command], port)


class Authority:
    """A certificate authority of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.file = folder / "ca.pem"
        self._openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2",
            "-subj /CN=test-ca -keyout ca.key -out ca.pem",
        )

    def _openssl(self, *words: str) -> None:
        command = ["openssl", *" ".join(words).split()]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True)

    def issue(self, name: str) -> tuple[Path, Path]:
        """(certificate, key) for a host of this name."""
        (self.folder / f"{name}.ext").write_text(f"subjectAltName=DNS:{name}\n")
        self._openssl(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes",
            f"-subj /CN={name} -keyout {name}.key -out {name}.csr",
        )
        self._openssl(
            f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial",
            f"-days 2 -extfile {name}.ext -out {name}.pem",
        )
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"


def nginx(folder: Path, root: Path, certificate: tuple[Path, Path]) -> Server:
    """An nginx that serves `root` by TLS; /slow/... at 4 MB/s."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    temps = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; user root; pid {folder}/pid; error_log {folder}/error.log;\n"
        "events {}\n"
        f"http {{ access_log {folder}/access.log; {temps}\n"
        f"server {{ listen 127.0.0.1:{port} ssl; root {root};\n"
        f"ssl_certificate {certificate[0]}; ssl_certificate_key {certificate[1]};\n"
        "location /slow/ { alias %s/; limit_rate 4m; }\n"
        "location /moved/ { rewrite ^/moved/(.*)$ /$1 redirect; }\n"
        "location /plain/ { return 302 http://localhost:1/$uri; }\n"
        "location /round/ { return 302 https://$host:$server_port$uri; }\n"
        "location /private/ { deny all; }\n"
        "} }\n" % root
    )
    command = ["/usr/sbin/nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder)]
    return Server(command, port)
