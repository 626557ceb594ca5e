"""The systemd units: what systemd-analyze says of them, and no more than that."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from conftest import REPO

# Exposure, from 0 (shut in) to 10. vined mounts and becomes other users, and its mounts
# must be seen by all: that costs it the settings that would give it a mount namespace.
BOUNDS = {"vined": 5.4, "vine-managerd": 1.8}
# These would hide vined's mounts from slurmd and the tasks.
NAMESPACE = re.compile(
    r"^(Protect(System|Home|KernelTunables|KernelModules|KernelLogs|ControlGroups|Proc)"
    r"|Private(Tmp|Devices|Mounts|Users)|ReadOnlyPaths|ReadWritePaths|InaccessiblePaths"
    r"|TemporaryFileSystem|ProcSubset|RootDirectory|DynamicUser)\s*=",
    re.M,
)


@pytest.mark.parametrize("name", BOUNDS)
def test_exposure_has_a_bound(name: str) -> None:
    unit = REPO / f"contrib/systemd/{name}.service"
    words = ["systemd-analyze", "security", "--offline=true", "--no-pager", unit]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    level = re.search(rf"exposure level for {name}.service: (\d+\.\d+)", done.stdout)
    assert level, done.stdout + done.stderr
    assert float(level[1]) <= BOUNDS[name]


def test_the_node_daemon_keeps_its_mounts_visible() -> None:
    text = (REPO / "contrib/systemd/vined.service").read_text()
    assert NAMESPACE.findall(text) == []


@pytest.mark.parametrize("name", BOUNDS)
def test_systemd_understands_every_word(name: str, tmp_path: Path) -> None:
    """The programs need not be installed for that."""
    unit = tmp_path / f"{name}.service"
    text = (REPO / f"contrib/systemd/{name}.service").read_text()
    unit.write_text(re.sub(r"^ExecStart=.*", "ExecStart=/bin/true", text, flags=re.M))
    words = ["systemd-analyze", "verify", "--man=no", unit]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if name in line]
    assert said == []
