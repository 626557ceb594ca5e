"""What keeps a Parsl configuration from using vine-env well, and the mend."""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from parsl.config import Config
from parsl.data_provider.files import File
from parsl.data_provider.staging import Staging
from parsl.providers import SlurmProvider

from vine_env.provider import VineSlurmProvider, sbatch_knows
from vine_env.spec import Source, SpecError, parse_data, parse_spec
from vine_env.staging import VineStaging

IN_OPTIONS = {
    option: re.compile(rf"^#SBATCH\s+\"?--{option}=([^\"\n]*)", re.M)
    for option in ("vine-env", "vine-data")
}
STATUS_SECONDS = 20
DAEMON_DOWN = "edown"
ACTIVATE = re.compile(
    r"^\s*(?:source|\.)\s+"
    r"(?:\"(/[^\"\n]+)|'(/[^'\n]+)|(/[^\s;\"']+))/bin/activate\b",
    re.M,
)


NORMAL = (
    "normal for a login node, the nodes of the jobs need one (on such a node "
    "`vine-env doctor` finds the reason)"
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    `level` is "ok", "warning" (works, but not as well as it could) or "error".
    """

    level: str
    executor: str  # its label; "" for the whole configuration
    text: str

    def __str__(self) -> str:
        where = f" {self.executor}:" if self.executor else ""
        return f"{self.level}:{where} {self.text}"


def doctor(config: Config) -> list[Finding]:
    """Look at a configuration before it is loaded. Nothing is started or changed."""
    found = [*_of_the_site(), *_of_this_host()]
    for executor in config.executors:
        label = str(getattr(executor, "label", type(executor).__name__))
        provider = getattr(executor, "provider", None)
        said = [*_of_provider(provider, executor), *_of_staging(provider, executor)]
        found += [Finding(level, label, text) for level, text in said]
    return found


def _of_the_site() -> Iterator[Finding]:
    if shutil.which("sbatch") is None:
        yield Finding(
            "error", "", "no sbatch in PATH: run this where jobs are submitted"
        )
        return
    known = sbatch_knows("--vine-env")
    if known is None:
        yield Finding(
            "error",
            "",
            "`sbatch --help` fails or does not answer here: mend that first",
        )
    elif not known:
        yield Finding(
            "error",
            "",
            "sbatch has no option --vine-env: the plugin is not installed here, or not "
            "for this release of Slurm (`vine-env doctor` says more)",
        )
    else:
        yield Finding("ok", "", "sbatch knows --vine-env")


def _of_this_host() -> Iterator[Finding]:
    """Does its daemon answer? Where jobs are submitted there often is none."""
    try:
        done = subprocess.run(
            ["vine-env", "status", "--json"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=STATUS_SECONDS,
        )
    except FileNotFoundError:
        yield Finding("ok", "", f"no vine-env on this host: {NORMAL}")
        return
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Finding("warning", "", f"cannot run `vine-env status` here: {error}")
        return
    if done.returncode == 0:
        return
    try:
        code, text = _told(json.loads(done.stdout))
    except (ValueError, TypeError, KeyError):
        code, text = "", done.stderr.strip() or f"exit status {done.returncode}"
    if code == DAEMON_DOWN:
        yield Finding("ok", "", f"no vined runs on this host: {NORMAL}")
    else:
        yield Finding("warning", "", f"`vine-env status` fails here: {text}")


def _told(answer: dict[str, dict[str, str]]) -> tuple[str, str]:
    return answer["error"]["code"], answer["error"]["text"]


def _of_provider(
    provider: Any,  # noqa: ANN401 - a configuration may hold anything
    executor: Any,  # noqa: ANN401
) -> Iterator[tuple[str, str]]:
    if not isinstance(provider, SlurmProvider):
        name = type(provider).__name__ if provider is not None else "no provider"
        yield "warning", f"{name}: vine-env works under Slurm; use VineSlurmProvider"
        return
    text, data = _specs_of(provider)
    if text is None and data is None:
        if _vine_stagings(executor):
            return
        yield (
            "warning",
            "vine-env is not asked for: use VineSlurmProvider(vine_env=...) or "
            'scheduler_options="#SBATCH --vine-env=..."',
        )
        return
    sources: list[Source] = []
    try:
        sources = parse_spec(text) if text is not None else []
    except SpecError as error:
        yield "error", f"--vine-env={text}: {error}"
        return
    try:
        sources += parse_data(data, sources) if data is not None else []
    except SpecError as error:
        yield "error", f"--vine-data={data}: {error}"
        return
    yield from _of_sources(sources)
    yield from _of_worker_init(provider.worker_init, sources)


def _specs_of(provider: SlurmProvider) -> tuple[str | None, str | None]:
    """What --vine-env and --vine-data will say."""

    def by_hand(option: str) -> str | None:
        match = IN_OPTIONS[option].search(provider.scheduler_options)
        return match[1] if match else None

    env, data = by_hand("vine-env"), by_hand("vine-data")
    if isinstance(provider, VineSlurmProvider):
        env = provider.vine_env if provider.vine_env is not None else env
        data = provider.vine_data if provider.vine_data is not None else data
    return env, data


def _of_sources(sources: list[Source]) -> Iterator[tuple[str, str]]:
    for source in sources:
        if source.is_remote:
            yield "ok", f"source '{source.path}' is on a server: not looked at"
        elif not os.path.exists(source.path):
            yield "error", f"source '{source.path}' does not exist here"
        elif not os.access(source.path, os.R_OK):
            yield "error", f"source '{source.path}' cannot be read by you"
        else:
            yield "ok", f"source '{source.path}'"


def _of_worker_init(text: str, sources: list[Source]) -> Iterator[tuple[str, str]]:
    """Does what the workers activate lie where vine-env puts something?"""
    for match in ACTIVATE.finditer(text):
        prefix = os.path.normpath(match[match.lastindex or 0])
        places = [s.known_destination for s in sources]
        if None in places:  # a packed image appears where it was packed from
            continue
        if any(prefix == p or prefix.startswith(f"{p}/") for p in places):
            yield "ok", f"workers activate '{prefix}', which is staged"
        else:
            yield (
                "warning",
                f"workers activate '{prefix}', which is none of what is staged: "
                "they read it from the shared file system",
            )


# --- staging of files ---------------------------------------------------------------


def _stagings(executor: Any) -> list[Staging] | None:  # noqa: ANN401
    """None: Parsl's defaults."""
    found = getattr(executor, "storage_access", None)
    return list(found) if found is not None else None


def _vine_stagings(executor: Any) -> list[VineStaging]:  # noqa: ANN401
    return [s for s in _stagings(executor) or [] if isinstance(s, VineStaging)]


def _of_staging(
    provider: Any,  # noqa: ANN401
    executor: Any,  # noqa: ANN401
) -> Iterator[tuple[str, str]]:
    stagings = _stagings(executor)
    if stagings is None:
        return
    ours = _vine_stagings(executor)
    if not ours:
        yield (
            "warning",
            "storage_access has no VineStaging: all tasks read their files from the "
            "shared file system",
        )
        return
    vine = ours[0]
    found = list(_of_order(stagings, vine))
    found += _of_prefixes(vine)
    found += _of_copies(provider, vine)
    if isinstance(provider, SlurmProvider):
        found += _of_workers(provider)
    yield from found
    if not found:
        below = "".join(f", files below '{prefix}'" for prefix in vine.prefixes)
        yield "ok", f"VineStaging has 'vine:' files{below}"


def _of_order(
    stagings: Sequence[Staging], vine: VineStaging
) -> Iterator[tuple[str, str]]:
    """Parsl takes the first that wants a File."""
    for kind, url in _probes(vine):
        takers = [s for s in stagings if s.can_stage_in(File(url))]
        names = [type(s).__name__ for s in takers]
        if not takers:
            yield (
                "error",
                f"nothing in storage_access takes {kind}: put NoOpFileStaging() behind "
                "VineStaging",
            )
        elif vine in takers and takers[0] is not vine:
            yield (
                "error",
                f"{names[0]} takes {kind} before VineStaging is asked: put VineStaging "
                "first in storage_access",
            )
        elif len(takers) > 1 and (vine not in takers or names[1] == names[0]):
            yield (
                "warning",
                f"{names[0]} and {names[1]} both take {kind}: the second is never "
                "asked",
            )


def _probes(vine: VineStaging) -> Iterator[tuple[str, str]]:
    """One File of each kind, by what it is called in a message."""
    yield "'vine:' files", "vine:///vine-env/doctor"
    for prefix in vine.prefixes:
        yield f"files below '{prefix}'", os.path.join(prefix, "vine-env-doctor")
    elsewhere = File("/vine-env-doctor/elsewhere")
    if not vine.takes_path(elsewhere):
        yield "other 'file:' files", elsewhere.url


def _of_prefixes(vine: VineStaging) -> Iterator[tuple[str, str]]:
    for prefix in vine.prefixes:
        if not os.path.isdir(prefix):
            yield "warning", f"prefixes: there is no directory '{prefix}' here"


def _of_copies(
    provider: Any,  # noqa: ANN401
    vine: VineStaging,
) -> Iterator[tuple[str, str]]:
    if not isinstance(provider, SlurmProvider):
        yield "warning", "outside of Slurm VineStaging uses the shared file system only"
        return
    if (provider.max_blocks or 1) > 1 and not vine.copy_back:
        yield (
            "warning",
            f"max_blocks={provider.max_blocks}: each block is a job of its own, and a "
            "'vine:' output is seen in its job only: use one block of more nodes, or "
            "copy_back=True",
        )
    if vine.replicas > (provider.nodes_per_block or 1):
        yield (
            "warning",
            f"replicas={vine.replicas}, but a block has "
            f"{provider.nodes_per_block} nodes: there will be no more copies",
        )
    if vine.replicas > 1 and "--no-kill" not in provider.scheduler_options:
        yield (
            "warning",
            f"replicas={vine.replicas}, but Slurm ends a whole job when one of its "
            'nodes dies: add "#SBATCH --no-kill" to scheduler_options and '
            'SrunLauncher(overrides="--no-kill --kill-on-bad-exit=0")',
        )


def _of_workers(provider: SlurmProvider) -> Iterator[tuple[str, str]]:
    """Can they import this package, as far as one can see from here?"""
    if "PYTHONPATH" in provider.worker_init:
        return
    for match in ACTIVATE.finditer(provider.worker_init):
        prefix = match[match.lastindex or 0]
        site = os.path.join(glob.escape(prefix), "lib/python3*/site-packages")
        if glob.glob(site) and not glob.glob(os.path.join(site, "*vine_env*")):
            yield (
                "warning",
                f"'{prefix}' seems to have no vine_env, which workers import: "
                f"{prefix}/bin/pip install it there",
            )
