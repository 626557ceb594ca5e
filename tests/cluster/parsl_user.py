"""A user who runs Parsl scripts on a node of the cluster."""

from __future__ import annotations

import json
import shutil
import sysconfig
from pathlib import Path
from typing import Any

from cluster import Cluster, Running

HERE = Path(__file__).resolve().parent
USER = "vine1"
# Parsl does not need them, and they are large.
LEFT_OUT = ("numpy*", "matplotlib*", "fontTools", "fonttools*", "PIL", "pillow*", "pip")
SCRIPTS = ("parsl_flow.py", "parsl_files.py", "parsl_monitored.py")


def install_packages(cluster: Cluster) -> str:
    """Parsl, vine_env and the scripts in the user's home, as `pip --user` puts them."""
    folder = cluster.layout.home / USER / "parsl-packages"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(
        sysconfig.get_paths()["purelib"],
        folder,
        ignore=shutil.ignore_patterns(*LEFT_OUT, "__pycache__"),
    )
    shutil.copytree(HERE.parents[1] / "python/vine_env", folder / "vine_env")
    for name in SCRIPTS:
        shutil.copy(HERE / name, folder)
    at = f"/home/{USER}/parsl-packages"
    cluster.run("n1", "chown", "-R", f"{USER}:{USER}", at)
    return at


def start_script(cluster: Cluster, packages: str, name: str, *words: str) -> Running:
    """One of the scripts, on n1. Its output ends in one JSON document."""
    python = ["env", f"PYTHONPATH={packages}", "/usr/bin/python3"]
    return cluster.popen("n1", *python, f"{packages}/{name}", *words, user=USER)


def result_of(script: Running, seconds: float = 180) -> dict[str, Any]:
    done = script.wait(seconds).checked()
    found: dict[str, Any] = json.loads(done.out.strip().splitlines()[-1])
    return found
