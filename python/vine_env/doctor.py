"""What keeps a Parsl configuration from using vine-env well, and the mend."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from parsl.config import Config
from parsl.providers import SlurmProvider

from vine_env.provider import VineSlurmProvider, sbatch_knows
from vine_env.spec import Source, SpecError, parse_data, parse_spec

IN_OPTIONS = {
    option: re.compile(rf"^#SBATCH\s+\"?--{option}=([^\"\n]*)", re.M)
    for option in ("vine-env", "vine-data")
}
ACTIVATE = re.compile(
    r"^\s*(?:source|\.)\s+"
    r"(?:\"(/[^\"\n]+)|'(/[^'\n]+)|(/[^\s;\"']+))/bin/activate\b",
    re.M,
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
    found = list(_of_the_site())
    for executor in config.executors:
        label = str(getattr(executor, "label", type(executor).__name__))
        provider = getattr(executor, "provider", None)
        found += [Finding(level, label, text) for level, text in _of_provider(provider)]
    return found


def _of_the_site() -> Iterator[Finding]:
    if shutil.which("sbatch") is None:
        yield Finding(
            "error", "", "no sbatch in PATH: run this where jobs are submitted"
        )
    elif not sbatch_knows("--vine-env"):
        yield Finding(
            "error",
            "",
            "sbatch has no option --vine-env: the plugin is not installed here, or not "
            "for this release of Slurm (`vine-env doctor` says more)",
        )
    else:
        yield Finding("ok", "", "sbatch knows --vine-env")


def _of_provider(provider: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401
    if not isinstance(provider, SlurmProvider):
        name = type(provider).__name__ if provider is not None else "no provider"
        yield "warning", f"{name}: vine-env works under Slurm; use VineSlurmProvider"
        return
    text, data = _specs_of(provider)
    if text is None and data is None:
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
