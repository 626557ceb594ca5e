"""Running commands, on the host and inside nodes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
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
    """The words before a command that is to run in the node, as root, as it is."""
    pid = layout.running(node).pid
    return ["nsenter", "-t", str(pid), "-m", "-u", "-i", "-n", "-p", "--"]


def clean_environment(user: str, more: Mapping[str, str]) -> list[str]:
    home = "/root" if user == "root" else f"/home/{user}"
    variables = {
        "HOME": home,
        "USER": user,
        "LOGNAME": user,
        "PATH": ROOT_PATH if user == "root" else USER_PATH,
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
        "TERM": os.environ.get("TERM", "dumb"),
        **more,
    }
    return ["env", "-i", "-C", home, *(f"{key}={variables[key]}" for key in variables)]


def in_node(
    layout: Layout,
    node: str,
    command: Sequence[str],
    user: str = "root",
    more: Mapping[str, str] | None = None,
) -> list[str]:
    """A command line that runs `command` in the node with a clean environment."""
    become: list[str] = []
    if user != "root":
        become = ["setpriv", "--reuid", user, "--regid", user, "--init-groups", "--"]
    environment = clean_environment(user, more or {})
    return [*enter(layout, node), *become, *environment, *command]
