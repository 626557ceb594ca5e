"""Parsl's SlurmProvider with vine-env's options."""

from __future__ import annotations

import logging
import subprocess
import warnings
from typing import Any

from parsl.providers import SlurmProvider

from vine_env.spec import parse_data, parse_spec

logger = logging.getLogger(__name__)

HELP_SECONDS = 20
STARTS = ("full", "lazy")
FALLBACKS = ("origin", "fail")


class VineSlurmProvider(SlurmProvider):
    """A SlurmProvider whose jobs run from their nodes' own disks.

    Everything that SlurmProvider takes, and:

    Args:
        vine_env: what the jobs run from, "SRC[:DST][,SRC[:DST]...]" as for
            `srun --vine-env`: a directory, or an image made by `vine-env pack`.
        vine_data: data for the jobs in the same form, as for `srun --vine-data`: files
            and directories.
        vine_start: "full" (tasks start when all of it is on the node) or "lazy" (as
            soon as it can be mounted); None: the site's default.
        vine_fallback: "origin" (run from the source where it cannot be staged) or
            "fail"; None: the site's default.
        vine_quiet: no progress lines in the jobs' output.

    Where the cluster's sbatch does not know these options, jobs are submitted without
    them, and a warning says so once a provider. Where sbatch cannot be asked, it is
    asked again with the next job.

    Raises:
        SpecError: `vine_env` or `vine_data` is not what the plugin would take.
        ValueError: `vine_start` or `vine_fallback` is another word.
    """

    def __init__(
        self,
        *args: Any,  # noqa: ANN401 - SlurmProvider's own
        vine_env: str | None = None,
        vine_data: str | None = None,
        vine_start: str | None = None,
        vine_fallback: str | None = None,
        vine_quiet: bool = False,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        environments = parse_spec(vine_env) if vine_env is not None else []
        if vine_data is not None:
            parse_data(vine_data, environments)
        _check_word("vine_start", vine_start, STARTS)
        _check_word("vine_fallback", vine_fallback, FALLBACKS)
        super().__init__(*args, **kwargs)
        self.vine_env = vine_env
        self.vine_data = vine_data
        self.vine_start = vine_start
        self.vine_fallback = vine_fallback
        self.vine_quiet = vine_quiet
        self._vine_added = False

    def vine_lines(self) -> str:
        """The lines that sbatch reads, "#SBATCH --vine-env=..." and its like."""
        if self.vine_env is None and self.vine_data is None:
            return ""
        options = []
        if self.vine_env is not None:
            options.append(f"--vine-env={self.vine_env}")
        if self.vine_data is not None:
            options.append(f"--vine-data={self.vine_data}")
        if self.vine_start is not None:
            options.append(f"--vine-start={self.vine_start}")
        if self.vine_fallback is not None:
            options.append(f"--vine-fallback={self.vine_fallback}")
        if self.vine_quiet:
            options.append("--vine-quiet")
        return "".join(f"#SBATCH {_quoted(option)}\n" for option in options)

    def submit(
        self, command: str, tasks_per_node: int, job_name: str = "parsl.slurm"
    ) -> str:
        """As SlurmProvider.submit; the options are added with the first job."""
        if not self._vine_added:
            lines = self._usable_lines()
            self._vine_added = lines is not None
            if lines:
                before = self.scheduler_options
                gap = "\n" if before and not before.endswith("\n") else ""
                self.scheduler_options = f"{before}{gap}{lines}"
        return super().submit(command, tasks_per_node, job_name)

    def _usable_lines(self) -> str | None:
        """None: sbatch did not answer; what it would say is not known."""
        lines = self.vine_lines()
        option = "--vine-data" if self.vine_data is not None else "--vine-env"
        if not lines:
            return lines
        known = sbatch_knows(option)
        if known is None or known:
            return lines if known else None
        warnings.warn(
            f"vine-env: sbatch has no option {option} here, so jobs run from the "
            "shared file system; ask an admin for the plugin (`vine-env doctor`)",
            stacklevel=4,
        )
        return ""


def _check_word(name: str, value: str | None, known: tuple[str, ...]) -> None:
    if value is not None and value not in known:
        raise ValueError(f"{name} takes {' or '.join(known)}, not {value!r}")


def _quoted(option: str) -> str:
    """As sbatch reads a word of a #SBATCH line: in double quotes, with backslashes."""
    if not any(char in option for char in " \t\"'\\#"):
        return option
    escaped = option.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def sbatch_knows(option: str) -> bool | None:
    """Has this cluster's sbatch the option? None where it does not answer."""
    try:
        done = subprocess.run(
            ["sbatch", "--help"],
            capture_output=True,
            text=True,
            check=False,
            timeout=HELP_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return _unanswered(str(error))
    if done.returncode != 0:
        return _unanswered(done.stderr.strip() or f"exit status {done.returncode}")
    return option in done.stdout


def _unanswered(why: str) -> None:
    logger.warning("vine-env: cannot ask sbatch for its options: %s", why)
