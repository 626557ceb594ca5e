"""What a task does with its files where it runs: `vine-env get` before, `put` after.

A task is wrapped by VineStaging (staging.py); this runs in its worker process. Where
vine-env cannot help, files are read from and written to the shared file system, and a
process warns of that once.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from parsl.app.errors import RemoteExceptionWrapper
from parsl.data_provider.files import File

# Of kwargs: what a task writes. All other Files among its arguments are inputs.
OUTPUT_LISTS = ("outputs",)
OUTPUT_FILES = ("stdout", "stderr")
COPY_BYTES = 1 << 20
ABSENT = "absent"  # beside the codes that vine-env has: it could not be asked
GONE = ("elost", "etimedout")  # it was put, and those that have it do not answer

Seen = tuple[int, int, int, int]
ON_SERVER = (0, 0, 0, 0)
_warned = threading.Lock()  # held for good by the first who warns
_known: dict[str, tuple[Seen, str]] = {}  # of sources: as it was, and where it is


class StagingError(RuntimeError):
    """A file cannot be brought to its task, or from it; the message says why."""


class LostFileError(StagingError):
    """What a task was to read was made in this job, or never, and nobody has it now.

    Running the task that makes it again helps; trying the reader again does not.
    """


class ToolError(Exception):
    """vine-env refused, or could not be asked. `code` is its code, or ABSENT."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Input:
    """One File that a task reads.

    Places are tried in this order: `name`, `source`, `shared`.
    """

    url: str  # says which of the task's Files it is
    name: str | None = None  # what a task of the job may have put
    source: str | None = None  # a path or URL for `vine-env get`
    shared: str | None = None  # the path that every node has
    wait_s: int = 0  # for the name
    copied_back: bool = True  # `shared` is what was put under the name


@dataclass(frozen=True)
class Output:
    """One File that a task writes, below `scratch_dir` (None: the default place)."""

    url: str
    name: str
    shared: str
    replicas: int = 1
    copy_back: bool = False
    scratch_dir: str | None = None


@dataclass(frozen=True)
class Plan:
    """What is done around one task."""

    inputs: tuple[Input, ...] = ()
    outputs: tuple[Output, ...] = ()


# --- vine-env -----------------------------------------------------------------------


def ask_tool(*words: str) -> dict[str, Any]:
    """Run `vine-env WORDS --json` and return its answer.

    Raises:
        ToolError: with the code and the line that vine-env gave.
    """
    if "SLURM_JOB_ID" not in os.environ:
        raise ToolError(ABSENT, "this process is in no job of Slurm")
    try:
        done = subprocess.run(
            ["vine-env", words[0], "--json", *words[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except OSError as error:
        raise ToolError(ABSENT, f"cannot run vine-env: {error.strerror}") from None
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = None
    if done.returncode == 0 and isinstance(answer, dict):
        return answer
    said = answer.get("error") if isinstance(answer, dict) else None
    if isinstance(said, dict):
        raise ToolError(str(said.get("code", "")), _unescaped(str(said.get("text"))))
    line = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    raise ToolError(ABSENT, line or f"vine-env ended with status {done.returncode}")


def get(source: str, wait_s: int = 0) -> str:
    """The path at which this job's tasks can open it on this node.

    Raises:
        ToolError: as ask_tool.
    """
    wait = ["--wait", str(wait_s)] if wait_s > 0 else []
    return _unescaped(str(ask_tool("get", *wait, "--", source)["path"]))


def get_once(source: str, shared: str | None) -> str:
    """As get, of what has the path `shared` on all nodes; None: it is on a server.

    A worker has many tasks with the same inputs. For a file that is as it was, by what
    a change of it changes, the daemon is not asked again: what it gave stays until the
    job's end. A server is asked once a worker, or tasks would log in by the hundred.

    Raises:
        ToolError: as ask_tool.
    """
    seen = _look(shared) if shared is not None else ON_SERVER
    if seen is not None and source in _known:
        before, place = _known[source]
        if before == seen and os.access(place, os.R_OK):
            return place
    place = get(source)
    if seen is not None:
        _known[source] = seen, place
    return place


def _look(path: str) -> Seen | None:
    """None: not a file, or not to be seen from here."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def put(path: str, name: str, replicas: int) -> None:
    """Offer a file to the other nodes of the job.

    Raises:
        ToolError: as ask_tool.
    """
    nodes = os.environ.get("SLURM_JOB_NUM_NODES", "")
    copies = min(replicas, int(nodes)) if nodes.isdigit() else replicas
    more = ["--replicas", str(copies)] if copies > 1 else []
    ask_tool("put", *more, "--", path, name)


def _unescaped(text: str) -> str:
    return os.fsdecode(unquote_to_bytes(text))


def _warn_once(error: ToolError) -> None:
    if _warned.acquire(blocking=False):
        warnings.warn(
            f"vine-env: {error}; tasks use the shared file system instead",
            stacklevel=2,
        )


# --- before and after a task --------------------------------------------------------


def fetch(item: Input) -> str:
    """A path on this node, or on the shared file system, at which it can be opened.

    Raises:
        LostFileError: it was to come from a task of this job, and cannot.
        StagingError: it cannot be brought here for another reason.
    """
    told: ToolError | None = None
    if item.name is not None:
        try:
            return get(f"vine:{item.name}", item.wait_s)
        except ToolError as error:
            told = error
        usable = item.copied_back or told.code not in GONE
        if item.shared is None or not usable or not os.path.exists(item.shared):
            raise LostFileError(_why_lost(item, told)) from None
    if item.source is not None and (told is None or told.code != ABSENT):
        try:
            return get_once(item.source, item.shared)
        except ToolError as error:
            told = error
    if item.shared is None:
        raise StagingError(f"cannot get '{item.source}': {told}")
    if told is not None:
        _warn_once(told)
    return item.shared


def _why_lost(item: Input, told: ToolError) -> str:
    if item.shared is None or (not item.copied_back and told.code in GONE):
        also = "and it was not copied to the shared file system (copy_back=True does)"
    else:
        also = f"and there is no '{item.shared}'"
    return f"cannot get '{item.url}': {told}, {also}"


def deliver(item: Output, place: str) -> None:
    """Offer what a task has written at `place`, and copy it where it was asked for.

    Raises:
        StagingError: the task has not written it, or there is no way to keep it.
    """
    if not os.path.isfile(place):
        raise StagingError(
            f"the task has written no file '{item.url}': it must be written at the "
            "path that its File has in the task"
        )
    told: ToolError | None = None
    try:
        put(place, item.name, item.replicas)
    except ToolError as error:
        told = error
    if told is None and not item.copy_back:
        return
    try:
        copy_whole(place, item.shared)
    except OSError as error:
        before = f"{told}; " if told is not None else ""
        raise StagingError(
            f"cannot keep '{item.url}': {before}cannot write '{item.shared}': "
            f"{error.strerror}"
        ) from None
    if told is not None:
        _warn_once(told)


def copy_whole(source: str, target: str) -> None:
    """Readers of `target` see what was there before, or the whole of it."""
    folder, base = os.path.split(target)
    os.makedirs(folder, exist_ok=True)
    file, temporary = tempfile.mkstemp(prefix=f".{base[:100]}.", dir=folder)
    try:
        with open(source, "rb") as reader, open(file, "wb") as writer:
            shutil.copyfileobj(reader, writer, COPY_BYTES)
            os.fchmod(writer.fileno(), os.fstat(reader.fileno()).st_mode & 0o777)
            writer.flush()
            os.fsync(writer.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


# --- a task -------------------------------------------------------------------------


def run_task(
    func: Callable[..., Any],
    plan: Plan,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:  # noqa: ANN401 - the task's own
    """Call a task with its files where it can open them, and keep what it has written.

    The Files that it is called with are copies: the caller's may be used again, by the
    next try in a pool of threads.

    Raises:
        StagingError: and LostFileError, besides whatever the task raises.
    """
    with contextlib.ExitStack() as stack:
        written: dict[str, str] = {}
        if plan.outputs:
            folder = tempfile.TemporaryDirectory(
                prefix="vine-env-",
                dir=plan.outputs[0].scratch_dir,
                ignore_cleanup_errors=True,
            )
            written = _places(plan, stack.enter_context(folder))
        read = {item.url: fetch(item) for item in plan.inputs}
        result = func(
            *(_placed(value, read) for value in args),
            **_placed_kwargs(kwargs, read, written),
        )
        # What a Parsl app raises is returned so.
        if not isinstance(result, RemoteExceptionWrapper):
            for item in plan.outputs:
                deliver(item, written[item.url])
        return result


def _places(plan: Plan, folder: str) -> dict[str, str]:
    """Each under its own last name, as the shared path has it."""
    places = {}
    for number, item in enumerate(plan.outputs):
        own = os.path.join(folder, str(number))
        os.mkdir(own)
        places[item.url] = os.path.join(own, os.path.basename(item.shared))
    return places


def _placed_kwargs(
    kwargs: Mapping[str, Any], read: Mapping[str, str], written: Mapping[str, str]
) -> dict[str, Any]:
    made = {}
    for key, value in kwargs.items():
        places = written if key in (*OUTPUT_LISTS, *OUTPUT_FILES) else read
        if key in ("inputs", *OUTPUT_LISTS) and isinstance(value, list):
            made[key] = [_placed(one, places) for one in value]
        else:
            made[key] = _placed(value, places)
    return made


def _placed(value: Any, places: Mapping[str, str]) -> Any:  # noqa: ANN401
    if not isinstance(value, File) or value.url not in places:
        return value
    copy = value.cleancopy()
    copy.local_path = places[value.url]
    return copy
