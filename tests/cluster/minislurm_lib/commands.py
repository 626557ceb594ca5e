"""Running commands, on the host and inside nodes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .errors import MinislurmError
from .layout import Layout

ROOT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
USER_PATH = "/usr/local/bin:/usr/bin:/bin"


def run(
    argv: Sequence[str | Path], text_in: str | None = None, check: bool = True
) -> str:
    """Output of a host command; it dies with us. MinislurmError with its last words."""
    done = subprocess.run(
        ["setpriv", "--pdeathsig", "KILL", "--", *map(str, argv)],
        input=text_in,
        stdin=subprocess.DEVNULL if text_in is None else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if check and done.returncode != 0:
        words = " ".join(map(str, argv))
        raise MinislurmError(
            f"'{words}' exited with {done.returncode}:\n{tail(done.stdout)}"
        )
    return done.stdout


def tail(text: str, lines: int = 15) -> str:
    return "\n".join(text.rstrip().splitlines()[-lines:])


def enter(layout: Layout, node: str) -> list[str]:
    """The words before a command that is to run in the node, as root, in our environment."""
    pid = layout.running(node).pid
    return ["nsenter", "-t", str(pid), "-m", "-u", "-i", "-n", "-p", "--"]


def clean_environment(user: str) -> list[str]:
    home = "/root" if user == "root" else f"/home/{user}"
    path = ROOT_PATH if user == "root" else USER_PATH
    variables = {
        "HOME": home,
        "USER": user,
        "LOGNAME": user,
        "PATH": path,
        "SHELL": "/bin/bash",
    }
    variables |= {"LANG": "C.UTF-8", "TERM": os.environ.get("TERM", "dumb")}
    return [
        "env",
        "-i",
        "-C",
        home,
        *(f"{key}={value}" for key, value in variables.items()),
    ]


def in_node(
    layout: Layout, node: str, command: Sequence[str], user: str = "root"
) -> list[str]:
    """The whole command line that runs `command` in the node with a clean environment."""
    become: list[str] = []
    if user != "root":
        become = ["setpriv", "--reuid", user, "--regid", user, "--init-groups", "--"]
    return [*enter(layout, node), *become, *clean_environment(user), *command]
