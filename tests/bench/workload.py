"""What the ways to start are measured with: one environment, in all its forms.

A venv on /pfs with packages from PyPI, its archive as conda-pack would make it, its
packed image, and the image of the same environment after a package of 8 MB was added.
Made once a cluster: one that has it already (MINISLURM_ATTACH) is used as it is.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from common import PFS_COSTS, REPO, BenchError, Cluster

BENCH = REPO / "tests/bench"
WHEELS = REPO / "build/wheels-bench"
USER = "vine1"
HOME = f"/home/{USER}/bench"  # not on /pfs: what is not measured
ENV = f"/pfs/home/{USER}/envs/ml"
IMAGE = f"{ENV}.sqsh"
IMAGE_NEXT = f"{ENV}-next.sqsh"
ARCHIVE = f"{ENV}.tar.gz"
ADDED = "midpack"  # in the middle of the name order
LOCAL = "/local/bench"  # the node's own disk, for ways without vine-env
MODULES = {
    "stack": [
        "numpy",
        "scipy.stats",
        "pandas",
        "sklearn.ensemble",
        "matplotlib.pyplot",
    ],
    "json": ["json"],
}
# Equal for all ways: one thread an import, no fonts to look for, nothing written.
TASK_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
    "MPLCONFIGDIR": f"{HOME}/matplotlib",
    "PYTHONDONTWRITEBYTECODE": "1",
}

MAKE_VENV = f"""
set -eu
python3 -m venv {ENV}
{ENV}/bin/pip --disable-pip-version-check install -q --no-index --no-compile \
    --find-links {HOME}/wheels -r {HOME}/requirements.txt
# pip compiles with one process; some packages carry files that are not meant to compile
{ENV}/bin/python -m compileall -qq -j 0 {ENV}/lib || true
mkdir -p $MPLCONFIGDIR
{ENV}/bin/python {HOME}/imports.py {" ".join(MODULES["stack"])}
"""

# conda-pack's form: the prefix's content, at its default compression.
MAKE_ARCHIVE = f"tar -C {ENV} -I 'gzip -4' -cf {ARCHIVE} ."

# Half of it text (modules of Python itself), half of it bytes that do not compress.
ADD_PACKAGE = f"""
import pathlib, random
half = 4_000_000
folder = next(pathlib.Path("{ENV}/lib").glob("python3*/site-packages")) / "{ADDED}"
folder.mkdir()
chance = random.Random(1)
for number in range(4):
    (folder / f"core{{number}}.so").write_bytes(chance.randbytes(half // 4))
size = 0
for source in sorted(pathlib.Path("/usr/lib/python3.11").rglob("*.py")):
    text = source.read_bytes()
    if size + len(text) <= half:
        (folder / f"m{{size}}_{{source.name}}").write_bytes(text)
        size += len(text)
"""


@dataclass(frozen=True)
class Environment:
    """Sizes, as they are on /pfs."""

    files: int
    entries: int  # files, directories and links
    bytes: int
    archive_bytes: int
    image_bytes: int
    image_next_bytes: int
    added_files: int
    added_bytes: int
    pack_seconds: float


def prepare(cluster: Cluster) -> Environment:
    """The environment, made now or found."""
    record = cluster.layout.home / USER / "bench/environment.json"
    if not record.exists():
        record.write_text(json.dumps(asdict(make(cluster, record.parent))))
    cluster.pfs_set(**PFS_COSTS)
    return Environment(**json.loads(record.read_text()))


def make(cluster: Cluster, home: Path) -> Environment:
    if not any(WHEELS.glob("*.whl")):
        raise BenchError(f"no wheels in '{WHEELS}': run contrib/bootstrap --for bench")
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(WHEELS, home / "wheels")
    for name in ("imports.py", "requirements.txt"):
        shutil.copy(BENCH / name, home / name)
    cluster.run("n1", "chown", "-R", f"{USER}:{USER}", HOME)
    cluster.pfs_set(**dict.fromkeys(PFS_COSTS, 0))
    user(cluster, MAKE_VENV)
    user(cluster, MAKE_ARCHIVE)
    before = tree(cluster)
    cluster.pfs_set(**PFS_COSTS)
    cluster.pfs_drop_caches()
    begin = time.monotonic()
    user(cluster, f"vine-env pack {ENV} -o {IMAGE}")
    pack_seconds = time.monotonic() - begin
    cluster.pfs_set(**dict.fromkeys(PFS_COSTS, 0))
    cluster.run("n1", "python3", "-c", ADD_PACKAGE, user=USER)
    after = tree(cluster)
    user(cluster, f"vine-env pack {ENV} -o {IMAGE_NEXT}")
    user(cluster, f"rm -r {ENV}/lib/python3*/site-packages/{ADDED}")
    for node in cluster.nodes:
        cluster.run(node, "install", "-d", "-m", "1777", LOCAL)
    sizes = user(cluster, f"stat -c %s {ARCHIVE} {IMAGE} {IMAGE_NEXT}").split()
    return Environment(
        files=before[0],
        entries=before[1],
        bytes=before[2],
        archive_bytes=int(sizes[0]),
        image_bytes=int(sizes[1]),
        image_next_bytes=int(sizes[2]),
        added_files=after[0] - before[0],
        added_bytes=after[2] - before[2],
        pack_seconds=round(pack_seconds, 1),
    )


def user(cluster: Cluster, script: str) -> str:
    return cluster.sh("n1", script, user=USER, env=TASK_ENVIRONMENT, timeout=300)


def tree(cluster: Cluster) -> tuple[int, int, int]:
    """(files, entries, bytes of the files) of the environment."""
    listed = user(cluster, f"find {ENV} -printf '%y %s\\n'").splitlines()
    sizes = [int(line[2:]) for line in listed if line[0] == "f"]
    return len(sizes), len(listed), sum(sizes)
