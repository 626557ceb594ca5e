"""Run vine-source as the node daemon does: a control socket on fd 3, a pipe on fd 4."""

import array
import json
import os
import select
import socket
import subprocess
import time
from typing import Any

Event = dict[str, Any]


class Source:
    """A vine-source child. Use as a context manager: it is killed at the end."""

    def __init__(
        self, program: str, path: str | bytes, uid: int = 0, gid: int = 0, *more: str
    ) -> None:
        self.control, control = socket.socketpair()
        self.bulk, bulk = os.pipe()
        # Both to numbers above 4 first, so that neither lands on the other.
        high = [os.dup2(fd, 200 + i) for i, fd in enumerate((control.fileno(), bulk))]
        arguments = ["--uid", str(uid), "--gid", str(gid), "--path", path, *more]
        shell = 'exec "$0" "$@" 3<&200 4>&201 200>&- 201>&-'
        self.process = subprocess.Popen(
            ["/bin/bash", "-c", shell, program, *arguments], pass_fds=high
        )
        for fd in (*high, bulk):
            os.close(fd)
        control.close()
        self.pending = b""
        self.progress: list[Event] = []

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.control.close()
        self.close_bulk()

    def close_bulk(self) -> None:
        if self.bulk >= 0:
            os.close(self.bulk)
            self.bulk = -1

    def event(self, seconds: float = 60) -> Event:
        """The next event that is no progress."""
        deadline = time.monotonic() + seconds
        while True:
            line, found, rest = self.pending.partition(b"\n")
            if found:
                self.pending = rest
                event: Event = json.loads(line)
                if event["event"] != "progress":
                    return event
                self.progress.append(event)
                continue
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.control], [], [], left)[0]:
                raise TimeoutError("no event from vine-source")
            more = self.control.recv(65536)
            if not more:
                raise EOFError("vine-source ended")
            self.pending += more

    def send(self, fds: list[int] | None = None, **command: Any) -> None:
        line = json.dumps(command).encode() + b"\n"
        rights = array.array("i", fds or []).tobytes()
        self.control.sendmsg(
            [line], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if fds else []
        )

    def read_bulk(self, length: int = -1) -> bytes:
        """`length` bytes, or all until the child closes it."""
        parts = []
        while length != 0:
            part = os.read(self.bulk, min(length, 1 << 20) if length > 0 else 1 << 20)
            if not part:
                break
            parts.append(part)
            length -= len(part) if length > 0 else 0
        return b"".join(parts)


def build(
    program: str,
    path: str | bytes,
    image: str,
    uid: int = 0,
    gid: int = 0,
    jobs: int = 0,
    *more: str,
) -> Event:
    """Resolve and build `image`. The last event: "done", or the error."""
    with Source(program, path, uid, gid, *more) as source:
        resolved = source.event()
        if resolved["event"] != "resolved":
            return resolved
        source.send(cmd="build")
        builder = subprocess.Popen(
            ["/bin/bash", "-c", 'exec "$1" "${@:3}" 3<>"$2"', "bash"]
            + [os.path.join(os.path.dirname(program), "vine-squash"), image]
            + (["--jobs", str(jobs)] if jobs else []),
            stdin=source.bulk,
            stderr=subprocess.DEVNULL,
        )
        source.close_bulk()
        event = source.event(600)
        status = builder.wait()
        if event["event"] == "done":
            assert status == 0
        return {**event, "resolved": resolved}
