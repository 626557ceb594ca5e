"""The ways to start a job's Python on all nodes, as scripts that a user would write.

Each script prints one JSON line a task (imports.py) and lines `phase NAME TIME` between
its steps. The first line is `phase start TIME`, before Slurm knows the job.
"""

from __future__ import annotations

from dataclasses import dataclass

from workload import ARCHIVE, ENV, HOME, IMAGE, IMAGE_NEXT, LOCAL, MODULES, USER

PHASE = "echo phase {} $(date +%s.%N)"


@dataclass(frozen=True)
class Way:
    name: str
    title: str
    body: str  # with {where}: srun's nodes, {python}: what a task runs
    user: str = USER
    python: str = f"{ENV}/bin/python"
    salloc: bool = False  # several steps in one allocation
    # What the nodes have when it starts: nothing, what the way `after` left.
    after: str | None = None
    vine: bool = False

    def script(self, nodes: int, workload: str = "stack") -> str:
        where = f"-N {nodes} -n {nodes} -w n[1-{nodes}]"
        task = f"{self.python} {HOME}/imports.py {' '.join(MODULES[workload])}"
        body = self.body.format(where="" if self.salloc else where, python=task)
        start = PHASE.format("start")
        if not self.salloc:
            return f"{start}\nexec {body}"
        return f"{start}\nexec salloc -Q {where} bash -ec '{body}'"


def vine(source: str, options: str = "") -> str:
    # A fall back on the shared file system is no measurement of vine-env: it fails.
    options = f"--vine-quiet --vine-fallback=fail {options}--vine-env={source}"
    return f"srun {{where}} {options} {{python}}"


SBCAST_UNTAR = f"""
srun mkdir {LOCAL}/ml
sbcast -f {ARCHIVE} {LOCAL}/ml.tar.gz
{PHASE.format("sbcast")}
srun tar -C {LOCAL}/ml -xzf {LOCAL}/ml.tar.gz
{PHASE.format("untar")}
srun {{python}}
"""

SBCAST_MOUNT = f"""
srun mkdir {LOCAL}/ml
sbcast -f {IMAGE} {LOCAL}/ml.sqsh
{PHASE.format("sbcast")}
srun mount -o loop,ro,nosuid,nodev {LOCAL}/ml.sqsh {LOCAL}/ml
{PHASE.format("mount")}
srun {{python}}
"""

WAYS = [
    Way("direct", "straight from the shared file system", "srun {where} {python}"),
    Way(
        "sbcast-untar",
        "conda-pack style: sbcast, untar",
        SBCAST_UNTAR,
        python=f"{LOCAL}/ml/bin/python",
        salloc=True,
    ),
    Way(
        "sbcast-mount",
        "sbcast of the packed image, mount by root",
        SBCAST_MOUNT,
        user="root",
        python=f"{LOCAL}/ml/bin/python",
        salloc=True,
    ),
    Way("vine-cold", "vine-env, packed image, cold", vine(IMAGE), vine=True),
    Way("vine-warm", "the same, warm", vine(IMAGE), after="vine-cold", vine=True),
    Way(
        "vine-update",
        "the same, 8 MB package added",
        vine(IMAGE_NEXT),
        after="vine-warm",
        vine=True,
    ),
    Way(
        "vine-lazy",
        "vine-env, packed image, cold, lazy",
        vine(IMAGE, "--vine-start=lazy "),
        vine=True,
    ),
    Way("vine-dir-cold", "vine-env, the directory itself, cold", vine(ENV), vine=True),
    Way(
        "vine-dir-warm",
        "the same, warm",
        vine(ENV),
        after="vine-dir-cold",
        vine=True,
    ),
]
BY_NAME = {way.name: way for way in WAYS}

# Where nothing is shared, and where little is imported: which ways are worth a look.
ALONE = (
    "direct",
    "vine-cold",
    "vine-warm",
    "vine-lazy",
    "vine-dir-cold",
    "vine-dir-warm",
)
