"""Sources on servers: a real sshd and a real nginx, read by vine-remote as its user."""

import hashlib
import io
import os
import random
import shutil
import signal
import socketserver
import ssl
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from fileservers import Authority, Server, free_port, nginx, ssh_keygen, sshd
from source import Source

USER = 20078
SIZE = 24 << 20


class World:
    """A user with a home and a key, in a mount namespace where passwd knows him."""

    def __init__(self, folder: Path, program: str) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.served = folder / "served"
        self.ssh = self.home / ".ssh"
        folder.chmod(0o755)
        for part in (self.home, self.ssh, self.served):
            part.mkdir()
        passwd = folder / "passwd"
        passwd.write_text(
            Path("/etc/passwd").read_text()
            + f"vinetest:x:{USER}:{USER}::{self.home}:/bin/sh\n"
        )
        inner = f'mount --bind {passwd} /etc/passwd && exec "$@"'
        self.wrapper = ["unshare", "-m", "/bin/sh", "-c", inner, "sh"]
        program = str(Path(program).with_name("vine-remote"))
        self.program = str(folder / "program")
        Path(self.program).write_text(
            f"#!/bin/sh\nexec unshare -m /bin/sh -c '{inner}' sh {program} \"$@\"\n"
        )
        Path(self.program).chmod(0o755)
        ssh_keygen(self.ssh / "id_ed25519")
        shutil.copy(self.ssh / "id_ed25519.pub", self.ssh / "authorized_keys")
        self.own()

    def own(self) -> None:
        for part in (self.home, *self.home.rglob("*")):
            os.chown(part, USER, USER)

    def know(self, port: int, key: str) -> None:
        self.known_hosts(f"[localhost]:{port} {key}\n")

    def known_hosts(self, text: str) -> None:
        (self.ssh / "known_hosts").write_text(text)
        self.own()

    def source(self, url: str, *more: str) -> Source:
        return Source(self.program, url, USER, USER, *more)

    def serve(self, name: str, data: bytes, mode: int = 0o644) -> Path:
        path = self.served / name
        path.write_bytes(data)
        path.chmod(mode)
        return path

    def serve_tar(self, name: str = "a.tar", size: int = SIZE) -> bytes:
        """A tar with one random file; the file's bytes."""
        data = random.Random(size).randbytes(size)
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            entry = tarfile.TarInfo("big")
            entry.size = size
            tar.addfile(entry, io.BytesIO(data))
        self.serve(name, out.getvalue())
        return data


@pytest.fixture
def world(program: str) -> Iterator[World]:
    # Not in tmp_path: a user must be able to pass the directories above.
    with tempfile.TemporaryDirectory() as folder:
        yield World(Path(folder), program)


@pytest.fixture
def ssh_server(world: World) -> Iterator[Server]:
    server = sshd(world.folder / "sshd", world.wrapper, world.ssh / "authorized_keys")
    world.know(server.port, host_key(world))
    server.start()
    try:
        yield server
    finally:
        server.stop()


def host_key(world: World) -> str:
    return (world.folder / "sshd" / "host_key.pub").read_text().strip()


@pytest.fixture
def authority(world: World) -> Authority:
    return Authority(world.folder / "ca")


@pytest.fixture
def web(world: World, authority: Authority) -> Iterator[Server]:
    server = nginx(world.folder / "nginx", world.served, authority.issue("localhost"))
    server.start()
    try:
        yield server
    finally:
        server.stop()


def sftp(world: World, server: Server, name: str, fragment: str = "") -> str:
    return f"sftp://localhost:{server.port}{world.served}/{name}{fragment}"


def https(server: Server, path: str, fragment: str = "") -> str:
    return f"https://localhost:{server.port}/{path}{fragment}"


def error_of(source: Source) -> tuple[str, str]:
    event = source.event()
    assert event["event"] == "error", event
    return event["code"], event["text"]


def content_of(tar: bytes) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        member = archive.extractfile("big")
        assert member is not None
        return member.read()


def check_break(source: Source, expected: bytes, between: Callable[[], None]) -> None:
    """All of the archive arrives, with `between` done after its first bytes."""
    assert source.event()["kind"] == "archive"
    source.send(cmd="build")
    start = source.read_bulk(1 << 20)
    between()
    rest = source.read_bulk()
    assert source.event()["event"] == "done"
    assert content_of(start + rest) == expected


def again(server: Server) -> Callable[[], None]:
    def restart() -> None:
        server.stop()
        server.start()

    return restart


# ---- sftp ----------------------------------------------------------------------------


def test_sftp_archive_over_a_server_that_restarts(
    world: World, ssh_server: Server
) -> None:
    data = world.serve_tar()
    with world.source(sftp(world, ssh_server, "a.tar")) as source:
        check_break(source, data, again(ssh_server))


def test_sftp_server_that_stops_answering(world: World, ssh_server: Server) -> None:
    data = world.serve_tar()

    def stop_sessions() -> None:
        for pid in ssh_server.members()[1:]:
            os.kill(pid, signal.SIGSTOP)

    with world.source(sftp(world, ssh_server, "a.tar"), "--timeout", "1") as source:
        check_break(source, data, stop_sessions)


def test_sftp_packed_image_is_the_object_alone(
    world: World, ssh_server: Server, program: str, cli: str, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(random.Random(1).randbytes(3 << 20))
    packed = tmp_path / "t.sqsh"
    subprocess.run([cli, "pack", str(tree), "-o", str(packed), "--local"], check=True)
    world.serve("t.sqsh", packed.read_bytes())
    digest = hashlib.sha256(packed.read_bytes()).hexdigest()
    with Source(program, packed, 0, 0) as local:
        size = local.event()["object_size"]
    url = sftp(world, ssh_server, "t.sqsh", f"#sha256={digest}")
    with world.source(url, "--key-first") as source:
        key = source.event()
        assert (key["event"], key["bytes"]) == ("key", packed.stat().st_size)
        source.send(cmd="open")
        resolved = source.event()
        assert (resolved["object_size"], resolved["manifest_bytes"]) == (size, 0)
        source.send(cmd="copy", offset=0, length=size)
        assert source.read_bulk(size) == packed.read_bytes()[:size]
        assert source.event() == {"event": "done", "bytes": size}


def test_sftp_key_changes_with_the_file(world: World, ssh_server: Server) -> None:
    def key() -> str:
        with world.source(sftp(world, ssh_server, "a.tar")) as source:
            return str(source.event()["key"])

    path = world.serve("a.tar", bytes(10240))
    before = key()
    assert key() == before
    os.utime(path, (1, 1))
    assert key() != before


def test_sftp_unknown_host_is_refused_with_its_line(
    world: World, ssh_server: Server
) -> None:
    world.serve_tar(size=1000)
    world.known_hosts("")
    with world.source(sftp(world, ssh_server, "a.tar")) as source:
        code, text = error_of(source)
    line = text.rpartition("known_hosts: ")[2]
    assert (code, line) == ("eauth", f"[localhost]:{ssh_server.port} {host_key(world)}")
    world.known_hosts(line + "\n")
    with world.source(sftp(world, ssh_server, "a.tar")) as source:
        assert source.event()["event"] == "resolved"


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_sftp_changed_host_key_is_refused(
    world: World, ssh_server: Server, kind: str
) -> None:
    world.serve_tar(size=1000)
    other = ssh_keygen(world.folder / "other", kind)
    world.know(ssh_server.port, other)
    with world.source(sftp(world, ssh_server, "a.tar")) as source:
        code, text = error_of(source)
    assert code == "eauth" and "not the one in known_hosts" in text


def test_sftp_revoked_host_key_is_refused(world: World, ssh_server: Server) -> None:
    world.serve_tar(size=1000)
    line = f"[localhost]:{ssh_server.port} {host_key(world)}\n"
    world.known_hosts(f"{line}@revoked * {host_key(world)}\n")
    with world.source(sftp(world, ssh_server, "a.tar")) as source:
        assert error_of(source)[1].endswith("is revoked")


def test_sftp_hashed_known_hosts(world: World, ssh_server: Server) -> None:
    world.serve_tar(size=1000)
    subprocess.run(
        ["ssh-keygen", "-q", "-H", "-f", str(world.ssh / "known_hosts")],
        check=True,
        capture_output=True,
    )
    (world.ssh / "known_hosts.old").unlink()
    assert "localhost" not in (world.ssh / "known_hosts").read_text()
    world.own()
    with world.source(sftp(world, ssh_server, "a.tar")) as source:
        assert source.event()["event"] == "resolved"


def test_sftp_keys_that_are_of_no_use(world: World, ssh_server: Server) -> None:
    world.serve_tar(size=1000)
    url = sftp(world, ssh_server, "a.tar")
    key = world.ssh / "id_ed25519"
    key.chmod(0o644)
    with world.source(url) as source:
        code, text = error_of(source)
    assert code == "eacces" and "that nobody else can read" in text
    key.unlink()
    (world.ssh / "id_ed25519.pub").unlink()
    ssh_keygen(key)
    world.own()
    with world.source(url) as source:
        code, text = error_of(source)
    assert code == "eacces" and "does not take" in text and "(id_ed25519)" in text


def test_sftp_key_with_a_passphrase_asks_nobody(
    world: World, ssh_server: Server
) -> None:
    world.serve_tar(size=1000)
    key = world.ssh / "id_ed25519"
    subprocess.run(
        ["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", str(key)], check=True
    )
    world.own()
    with world.source(sftp(world, ssh_server, "a.tar")) as source:
        code, text = error_of(source)
    assert code == "eacces" and "a passphrase protects" in text


def test_sftp_files_that_cannot_be_read(world: World, ssh_server: Server) -> None:
    world.serve("secret.tar", b"x", 0o600)
    (world.served / "dir.tar").mkdir()
    cases = {
        "secret.tar": ("eacces", "permission denied"),
        "none.tar": ("enoent", "does not exist"),
        "dir.tar": ("einval", "is no file"),
    }
    for name, (code, word) in cases.items():
        with world.source(sftp(world, ssh_server, name)) as source:
            said, text = error_of(source)
        assert said == code and word in text


def test_sftp_nobody_listens(world: World) -> None:
    url = f"sftp://localhost:{free_port()}/a.tar"
    with world.source(url, "--timeout", "1") as source:
        code, text = error_of(source)
    assert code == "edown" and "cannot reach 'localhost'" in text


def test_sftp_a_file_that_grows_is_refused(world: World, ssh_server: Server) -> None:
    world.serve_tar()

    with world.source(sftp(world, ssh_server, "a.tar")) as source:
        source.event()
        source.send(cmd="build")
        source.read_bulk(1 << 20)
        with (world.served / "a.tar").open("ab") as file:
            file.write(bytes(10240))
        source.read_bulk()
        code, text = error_of(source)
    assert code == "echanged" and "changed while it was read" in text


def test_sftp_another_file_after_a_break_is_refused(
    world: World, ssh_server: Server
) -> None:
    world.serve_tar()
    with world.source(sftp(world, ssh_server, "a.tar")) as source:
        source.event()
        source.send(cmd="build")
        source.read_bulk(1 << 20)
        ssh_server.stop()
        os.utime(world.served / "a.tar", (1, 1))
        ssh_server.start()
        source.read_bulk()
        assert error_of(source)[0] == "echanged"


def test_wrong_digest_is_refused(world: World, ssh_server: Server) -> None:
    world.serve_tar(size=100_000)
    right = hashlib.sha256((world.served / "a.tar").read_bytes()).hexdigest()
    for digest, word in ((right, "done"), ("0" * 64, "error")):
        url = sftp(world, ssh_server, "a.tar", f"#sha256={digest}")
        with world.source(url) as source:
            assert source.event()["event"] == "resolved"
            source.send(cmd="build")
            source.read_bulk()
            end = source.event()
        assert end["event"] == word
    assert end["code"] == "ecorrupt" and right in end["text"]


def test_archive_that_was_cut_short(world: World, ssh_server: Server) -> None:
    world.serve_tar(size=100_000)
    whole = (world.served / "a.tar").read_bytes()
    end = 512 + 100_352  # header and padded bytes
    world.serve("a.tar", whole[:end])
    with world.source(sftp(world, ssh_server, "a.tar")) as source:
        source.event()
        source.send(cmd="build")
        source.read_bulk()
        assert error_of(source)[0] == "ecorrupt"


# ---- https ---------------------------------------------------------------------------


def test_https_archive_over_a_server_that_restarts(
    world: World, web: Server, authority: Authority
) -> None:
    data = world.serve_tar()
    url = https(web, "slow/a.tar")
    with world.source(url, "--ca-file", str(authority.file)) as source:
        check_break(source, data, again(web))
    log = (world.folder / "nginx" / "access.log").read_text()
    assert log.count(" 206 ") >= 3  # the look, a part and the rest


def test_https_redirections(world: World, web: Server, authority: Authority) -> None:
    data = world.serve_tar(size=100_000)
    ca = ("--ca-file", str(authority.file))
    with world.source(https(web, "moved/a.tar"), *ca) as source:
        check_break(source, data, lambda: None)
    for path in ("plain/a.tar", "round/a.tar"):
        with world.source(https(web, path), *ca) as source:
            code, text = error_of(source)
        assert code == "einval" and "leads elsewhere" in text


def test_https_certificates_are_checked(
    world: World, web: Server, authority: Authority
) -> None:
    world.serve_tar(size=1000)
    with world.source(https(web, "a.tar")) as source:  # the system does not know it
        code, text = error_of(source)
    assert code == "eauth" and "certificate of 'localhost' is not valid" in text
    url = f"https://127.0.0.1:{web.port}/a.tar"  # another name than the certificate's
    with world.source(url, "--ca-file", str(authority.file)) as source:
        assert error_of(source)[0] == "eauth"


def test_https_files_that_cannot_be_read(
    world: World, web: Server, authority: Authority
) -> None:
    world.serve("empty.tar", b"")
    cases = {
        "private/a.tar": ("eacces", "does not give"),
        "none.tar": ("enoent", "does not exist"),
        "empty.tar": ("einval", "is empty"),
    }
    for path, (code, word) in cases.items():
        url = https(web, path)
        with world.source(url, "--ca-file", str(authority.file)) as source:
            said, text = error_of(source)
        assert said == code and word in text


Script = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def scripted(authority: Authority, script: Script) -> Iterator[int]:
    """A server that answers as `script` says; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            script(self)

        def log_message(self, *_: object) -> None:
            pass

    class Threaded(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("localhost"))
    with Threaded(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def answer(to: BaseHTTPRequestHandler, data: bytes, cut: int, **headers: str) -> None:
    """The whole of it, and the connection broken after `cut` bytes."""
    to.send_response(200)
    to.send_header("Content-Length", str(len(data)))
    for name, value in headers.items():
        to.send_header(name, value)
    to.end_headers()
    to.wfile.write(data[:cut])
    to.close_connection = True


def test_https_truncated_answers_of_a_server_without_parts(
    world: World, authority: Authority
) -> None:
    data = world.serve_tar(size=3 << 20)
    tar = (world.served / "a.tar").read_bytes()
    cuts = iter([len(tar), 1 << 20, 2 << 20])

    def script(to: BaseHTTPRequestHandler) -> None:
        answer(to, tar, next(cuts, len(tar)), ETag='"1"')

    with scripted(authority, script) as port:
        url = f"https://localhost:{port}/a.tar"
        with world.source(url, "--ca-file", str(authority.file)) as source:
            check_break(source, data, lambda: None)


def test_https_another_version_in_the_middle(
    world: World, authority: Authority
) -> None:
    world.serve_tar(size=3 << 20)
    tar = (world.served / "a.tar").read_bytes()
    tags = iter(['"1"', '"1"'])

    def script(to: BaseHTTPRequestHandler) -> None:
        answer(to, tar, len(tar) // 2, ETag=next(tags, '"2"'))

    with scripted(authority, script) as port:
        url = f"https://localhost:{port}/a.tar"
        with world.source(url, "--ca-file", str(authority.file)) as source:
            assert source.event()["event"] == "resolved"
            source.send(cmd="build")
            source.read_bulk()
            assert error_of(source)[0] == "echanged"


def test_https_versions_that_nothing_tells_apart(
    world: World, authority: Authority
) -> None:
    with scripted(authority, lambda to: answer(to, bytes(10240), 10240)) as port:
        url = f"https://localhost:{port}/a.tar"
        ca = ("--ca-file", str(authority.file))
        with world.source(url, *ca) as source:
            code, text = error_of(source)
        assert code == "einval" and "add #sha256=" in text
        digest = hashlib.sha256(bytes(10240)).hexdigest()
        with world.source(f"{url}#sha256={digest}", *ca) as source:
            assert source.event()["event"] == "resolved"


def test_https_server_that_never_answers(world: World, authority: Authority) -> None:
    silence = threading.Event()
    with scripted(authority, lambda to: silence.wait(60) and None) as port:
        url = f"https://localhost:{port}/a.tar"
        more = ("--ca-file", str(authority.file), "--timeout", "1")
        with world.source(url, *more) as source:
            code, _ = error_of(source)
        silence.set()
    assert code == "edown"


def test_file_of_data_is_itself_whatever_its_name(
    world: World, ssh_server: Server
) -> None:
    for name, data in (("a.tar", random.Random(2).randbytes(5000)), ("none", b"")):
        world.serve(name, data)
        with world.source(sftp(world, ssh_server, name), "--kind", "data") as source:
            resolved = source.event()
            assert (resolved["kind"], resolved["object_size"]) == ("file", len(data))
            source.send(cmd="copy", offset=0, length=len(data))
            assert source.read_bulk(len(data)) == data
            assert source.event() == {"event": "done", "bytes": len(data)}
