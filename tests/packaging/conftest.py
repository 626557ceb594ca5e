"""Fixtures: the packages, built once, and a root file system to install them in."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from scratch_root import ScratchRoot

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def packages() -> Iterator[dict[str, Path]]:
    """Debian packages of this tree, by name."""
    with tempfile.TemporaryDirectory(prefix="vine-deb-") as folder:
        done = subprocess.run(
            [REPO / "contrib/packaging/make-deb", f"{folder}/out"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        yield {
            path.name.partition("_")[0]: path
            for path in Path(folder, "out").glob("*.deb")
            if "-dbgsym_" not in path.name
        }


@pytest.fixture
def root() -> Iterator[ScratchRoot]:
    with tempfile.TemporaryDirectory(prefix="vine-root-") as folder:
        yield ScratchRoot(Path(folder))
