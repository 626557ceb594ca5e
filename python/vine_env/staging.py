"""Files of Parsl tasks by way of the nodes' own disks.

    from parsl.data_provider.data_manager import default_staging
    from vine_env import VineStaging

    HighThroughputExecutor(
        storage_access=[VineStaging(prefixes=["/scratch/"]), *default_staging], ...)

The provider decides at the submitting side, once a File; what it decided travels with
the task and is done in the worker's process (_files.py).
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from parsl.data_provider.files import File
from parsl.data_provider.staging import Staging
from parsl.utils import RepresentationMixin

from vine_env import _url
from vine_env._files import Input, LostFileError, Output, Plan, StagingError, run_task

if TYPE_CHECKING:
    from parsl.data_provider.data_manager import DataManager

__all__ = ["LostFileError", "StagingError", "VineStaging"]

VINE = "vine"
REMOTE = ("vine+sftp", "vine+https")
NAME_BYTES_MAX = 1024
REPLICAS_MAX = 64
WAIT_MAX_S = 86400

# What is wrapped already, and how: a task has one wrapper, whatever its files.
_wrapped: weakref.WeakKeyDictionary[
    Callable[..., Any], tuple[Callable[..., Any], Plan]
] = weakref.WeakKeyDictionary()


class VineStaging(Staging, RepresentationMixin):
    """Brings files to tasks through vine-env, and what tasks write to other tasks.

    It takes these Files:

    - "vine:///path": an output stays on the disk of the node that made it, and comes
      from there to tasks of the same job that have it as input. An input that no task
      has made is the shared path /path.
    - "vine+sftp://[user@]host[:port]/path" and "vine+https://host[:port]/path": inputs.
    - plain paths and "file:" below `prefixes`: inputs. The first node that needs a file
      reads it, the others have it from each other.

    A task opens a File at its `filepath`, as ever. What was brought is read-only.

    Args:
        prefixes: absolute directories of the shared file system.
        replicas: on how many nodes an output lies before its task is done.
        copy_back: copy outputs "vine:///path" to /path, too, whole or not at all.
        file_outputs: offer outputs below `prefixes` to other nodes, too; they are
            always written to their own path.
        wait_s: how long an input waits for the name under which a task has put it,
            should the manager be away at that moment.
        scratch_dir: a directory of the node in which tasks write their outputs; None:
            TMPDIR or /tmp.

    Where no daemon runs, or outside of Slurm, tasks use the shared paths, and each
    process warns once. Workers must be able to import vine_env.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        prefixes: Sequence[str] = (),
        *,
        replicas: int = 1,
        copy_back: bool = False,
        file_outputs: bool = False,
        wait_s: int = 30,
        scratch_dir: str | None = None,
    ) -> None:
        if isinstance(prefixes, str):
            raise ValueError(f"prefixes takes a list: [{prefixes!r}]")
        for prefix in prefixes:
            if not os.path.isabs(prefix):
                raise ValueError(f"prefixes: {prefix!r} is not an absolute path")
        _check_range("replicas", replicas, 1, REPLICAS_MAX)
        _check_range("wait_s", wait_s, 0, WAIT_MAX_S)
        self.prefixes = list(prefixes)
        self.replicas = replicas
        self.copy_back = copy_back
        self.file_outputs = file_outputs
        self.wait_s = wait_s
        self.scratch_dir = scratch_dir
        self._made: set[tuple[str, str]] = set()  # executor and URL of each output

    # --- what Parsl asks ------------------------------------------------------------

    def can_stage_in(self, file: File) -> bool:
        """Is it one of the Files above?"""
        return file.scheme in (VINE, *REMOTE) or self.takes_path(file)

    def can_stage_out(self, file: File) -> bool:
        """Is it one of the Files above? "vine+" is taken, and refused by stage_out."""
        if file.scheme == "file" and not self.file_outputs:
            return False
        return self.can_stage_in(file)

    def stage_in(
        self,
        dm: DataManager,
        executor: str,
        file: File,
        parent_fut: Future[Any] | None,
    ) -> None:
        """Nothing runs beside the task; a File that cannot be is refused here.

        Raises:
            StagingError: its URL is malformed.
        """
        self._input(executor, file)

    def stage_out(
        self, dm: DataManager, executor: str, file: File, app_fu: Future[Any]
    ) -> None:
        """As stage_in.

        Raises:
            StagingError: its URL is malformed, or on a server.
        """
        self._output(file)
        self._made.add((executor, file.url))

    def replace_task(
        self, dm: DataManager, executor: str, file: File, func: Callable[..., Any]
    ) -> Callable[..., Any]:
        """The task, which gets this File first."""
        inner, plan = _unwrapped(func)
        item = self._input(executor, file)
        if item in plan.inputs:
            return func
        return _wrap(inner, Plan((*plan.inputs, item), plan.outputs))

    def replace_task_stage_out(
        self, dm: DataManager, executor: str, file: File, func: Callable[..., Any]
    ) -> Callable[..., Any]:
        """The task, which offers this File to others when it has written it."""
        inner, plan = _unwrapped(func)
        return _wrap(inner, Plan(plan.inputs, (*plan.outputs, self._output(file))))

    # --- Files ----------------------------------------------------------------------

    def takes_path(self, file: File) -> bool:
        """Is it a plain path below one of the prefixes?"""
        if file.scheme != "file" or not os.path.isabs(file.path):
            return False
        path = os.path.normpath(file.path)
        tops = [os.path.normpath(prefix).rstrip("/") for prefix in self.prefixes]
        return any(path == top or path.startswith(f"{top}/") for top in tops)

    def _input(self, executor: str, file: File) -> Input:
        if file.scheme in REMOTE:
            return Input(file.url, source=_remote_source(file))
        path = _shared_path(file)
        made = (executor, file.url) in self._made
        if file.scheme == "file" and not made:
            return Input(file.url, source=path, shared=path)
        return Input(
            file.url,
            name=path.lstrip("/"),
            source=path,
            shared=path,
            wait_s=self.wait_s if made else 0,
            copied_back=self.copy_back or file.scheme == "file",
        )

    def _output(self, file: File) -> Output:
        if file.scheme in REMOTE:
            raise StagingError(
                f"'{file.url}' cannot be an output: write 'vine:///path' and send it "
                "there from a task of its own"
            )
        path = _shared_path(file)
        return Output(
            file.url,
            name=path.lstrip("/"),
            shared=path,
            replicas=self.replicas,
            copy_back=self.copy_back or file.scheme == "file",
            scratch_dir=self.scratch_dir,
        )


def _check_range(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name} takes {least} to {most}, not {value!r}")


def _shared_path(file: File) -> str:
    """The path of a "vine:///path" or a plain path; without its "/" it is a NAME."""
    if file.scheme == "file":
        return os.path.normpath(file.path)
    rest = file.url[len(f"{VINE}:") :]
    if not rest.startswith("///"):
        raise StagingError(
            f"'{file.url}' is no URL of a file of the job: write 'vine:///path', with "
            "three '/'"
        )
    path = os.path.normpath("/" + rest.lstrip("/"))
    if path == "/" or rest.endswith("/"):
        raise StagingError(f"'{file.url}' must name a file")
    if any(char < " " or char in "\x7f#" for char in path):
        raise StagingError(f"'{file.url}' must not have control characters or a '#'")
    if len(os.fsencode(path)) > NAME_BYTES_MAX:
        raise StagingError(f"'{file.url}' is longer than {NAME_BYTES_MAX} bytes")
    return path


def _remote_source(file: File) -> str:
    url = file.url[len("vine+") :]
    fault = _url.fault_of(os.fsencode(url))
    if fault is not None:
        raise StagingError(f"'{file.url}': {fault}")
    return url


# --- tasks --------------------------------------------------------------------------


def _unwrapped(func: Callable[..., Any]) -> tuple[Callable[..., Any], Plan]:
    try:
        return _wrapped.get(func, (func, Plan()))
    except TypeError:  # a callable that takes no weak reference, or has no hash
        return func, Plan()


def _wrap(func: Callable[..., Any], plan: Plan) -> Callable[..., Any]:
    def staged(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - the task's own
        return run_task(func, plan, args, kwargs)

    # Parsl tells tasks whose results it remembers by these.
    name = getattr(func, "__name__", type(func).__name__)
    staged.__name__ = f"{getattr(func, '__module__', '')}.{name}"
    _wrapped[staged] = (func, plan)
    return staged
