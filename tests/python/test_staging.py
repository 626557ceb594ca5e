"""VineStaging with real Parsl and a vine-env that is a folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import parsl
import pytest
from parsl.app.app import bash_app, python_app
from parsl.config import Config
from parsl.data_provider.data_manager import default_staging
from parsl.data_provider.file_noop import NoOpFileStaging
from parsl.data_provider.files import File
from parsl.data_provider.rsync import RSyncStaging
from parsl.executors import HighThroughputExecutor, ThreadPoolExecutor
from parsl.launchers import SrunLauncher
from parsl.providers import LocalProvider
from parsl.serialize import pack_apply_message
from vine_env import (
    LostFileError,
    StagingError,
    VineSlurmProvider,
    VineStaging,
    _files,
    doctor,
)

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parents[1] / "python"
TASK_S = 30


class Site:
    """A shared file system, and a node of job 7 with its vine-env."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.shared = top / "shared"
        self.vine = top / "vine"
        self.scratch = top / "scratch"
        for folder in (self.shared, self.vine, self.scratch, top / "bin"):
            folder.mkdir()
        (self.vine / "lost").write_text("")
        shutil.copy(Path(__file__).with_name("fake_vine_env.py"), self.program)

    @property
    def program(self) -> Path:
        return self.top / "bin" / "vine-env"

    def calls(self) -> list[str]:
        """What vine-env was asked since the last time; without --json."""
        path = self.vine / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line.replace("--json ", "") for line in lines]

    def refuse(self, code: str, text: str) -> None:
        (self.vine / "error").write_text(f"{code} {text}")

    def file(self, name: str, text: str) -> Path:
        path = self.shared / name
        path.write_text(text)
        return path

    def url(self, name: str) -> str:
        return f"vine://{self.shared}/{name}"

    def name(self, name: str) -> str:
        return f"{self.shared}/{name}".lstrip("/")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    made = Site(tmp_path)
    monkeypatch.setenv("PATH", f"{made.program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("FAKE_VINE", str(made.vine))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "8")
    monkeypatch.setattr(_files, "_warned", threading.Lock())
    monkeypatch.setattr(_files, "_known", {})
    return made


Load = Callable[..., None]


@pytest.fixture
def load(site: Site) -> Iterator[Load]:
    """Parsl with threads for workers."""
    loaded = []

    def make(staging: VineStaging, retries: int = 0) -> None:
        executor = ThreadPoolExecutor(storage_access=[staging, *default_staging])
        config = Config(
            executors=[executor],
            run_dir=str(site.top / "runs"),
            initialize_logging=False,
            retries=retries,
        )
        loaded.append(parsl.load(config))

    yield make
    for kernel in loaded:
        kernel.cleanup()


@python_app
def read(inputs=()):
    return [(one.filepath, Path(one).read_text()) for one in inputs]


@python_app
def copy(source, outputs=()):
    with open(outputs[0], "w") as out:
        out.write(Path(source).read_text() + "!")
    return outputs[0].filepath


@python_app
def write(text, outputs=()):
    for one in outputs:
        with open(one, "w") as out:
            out.write(f"{text} {one.filename}")
    return [one.filepath for one in outputs]


# --- tasks and their files ----------------------------------------------------------


def test_shared_inputs_come_through_get(site: Site, load: Load) -> None:
    load(VineStaging(prefixes=[f"{site.shared}/"]))
    a, b = site.file("a b%.txt", "A"), site.file("b", "B")
    other = site.top / "other"
    other.write_text("C")
    found = read(inputs=[File(str(a)), File(f"file://{b}"), File(str(other))]).result()
    job = site.vine / "job/7"
    assert found == [(f"{job}/a b%.txt", "A"), (f"{job}/b", "B"), (str(other), "C")]
    assert site.calls() == [f"get -- {a}", f"get -- {b}"]


def test_a_worker_asks_once_for_a_file_that_stays(site: Site, load: Load) -> None:
    load(VineStaging(prefixes=[str(site.shared)]))
    path = site.file("a", "A")
    shown = site.vine / "job/7/a"

    def found() -> list[tuple[str, str]]:
        return read(inputs=[File(str(path))]).result(TASK_S)

    assert [found(), found()] == [[(str(shown), "A")]] * 2
    assert len(site.calls()) == 1
    was = path.stat()
    path.write_text("B")
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))  # ctime tells
    assert found() == [(str(shown), "B")]
    assert len(site.calls()) == 1
    shown.unlink()
    assert found() == [(str(shown), "B")]
    assert len(site.calls()) == 1
    folder = site.shared / "folder"
    folder.mkdir()
    for _ in range(2):
        assert _files.fetch(_files.Input("x", source=str(folder), shared=str(folder)))
    assert len(site.calls()) == 2


def test_an_output_goes_from_node_to_node(site: Site, load: Load) -> None:
    load(VineStaging(scratch_dir=str(site.scratch), wait_s=20))
    first = write("made", outputs=[File(site.url("one")), File(site.url("sub/one"))])
    second = copy(first.outputs[1], outputs=[File(site.url("two"))])
    found = read(inputs=[second.outputs[0]]).result(TASK_S)
    assert found == [(str(site.vine / "job/7/two"), "made one!")]
    places = first.result()
    assert [os.path.basename(p) for p in places] == ["one", "one"]
    assert all(p.startswith(f"{site.scratch}/vine-env-") for p in places)
    assert list(site.scratch.iterdir()) == []  # it is in the store
    assert list(site.shared.iterdir()) == []  # and nowhere else
    puts = [line.rpartition(" ")[2] for line in site.calls() if line[:3] == "put"]
    assert puts == [site.name(name) for name in ("one", "sub/one", "two")]


def test_a_name_is_waited_for_if_a_task_makes_it(site: Site, load: Load) -> None:
    load(VineStaging(wait_s=20, replicas=3))
    made = write("x", outputs=[File(site.url("one"))])
    read(inputs=[made.outputs[0]]).result(TASK_S)
    assert [line.split(" -- ")[0] for line in site.calls()] == [
        "put --replicas 3",
        "get --wait 20",
    ]
    data = site.file("data", "shared")
    assert read(inputs=[File(f"vine://{data}")]).result(TASK_S)[0][1] == "shared"
    name = site.name("data")
    assert site.calls() == [f"get -- vine:{name}", f"get -- {data}"]


def test_no_more_replicas_than_nodes(
    site: Site, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "1")
    load(VineStaging(replicas=3))
    write("x", outputs=[File(site.url("one"))]).result(TASK_S)
    assert site.calls()[0].startswith("put -- ")


def test_copy_back_writes_the_shared_path(site: Site, load: Load) -> None:
    load(VineStaging(copy_back=True))
    write("x", outputs=[File(site.url("new/one"))]).result(TASK_S)
    assert (site.shared / "new/one").read_text() == "x one"
    assert [p.name for p in (site.shared / "new").iterdir()] == ["one"]
    assert site.calls()[0].endswith(site.name("new/one"))
    (site.vine / "lost").write_text(site.name("new/one"))
    assert read(inputs=[File(site.url("new/one"))]).result(TASK_S)[0][1] == "x one"


def test_a_file_of_its_own_path_is_offered_if_asked(site: Site, load: Load) -> None:
    load(VineStaging(prefixes=[str(site.shared)], file_outputs=True))
    path = site.shared / "one"
    made = write("x", outputs=[File(str(path))])
    again = read(inputs=[made.outputs[0]]).result(TASK_S)
    assert again == [(str(site.vine / "job/7/one"), "x one")]
    assert path.read_text() == "x one"
    calls = site.calls()
    assert calls[0].startswith("put ") and calls[1].endswith(f"vine:{site.name('one')}")


def test_a_file_may_be_read_and_written_by_one_task(site: Site, load: Load) -> None:
    load(VineStaging(copy_back=True))
    site.file("state", "0")
    state = File(site.url("state"))
    for _ in range(2):
        copy(state, outputs=[state]).result(TASK_S)
    assert (site.shared / "state").read_text() == "0!!"


@bash_app
def shout(inputs=(), outputs=(), stdout=None, stderr=None):
    return f"tr a-z A-Z < {inputs[0]} > {outputs[0]}; echo said; echo wrong >&2"


def test_commands_and_their_streams(site: Site, load: Load) -> None:
    load(VineStaging(prefixes=[str(site.shared)]))
    made = shout(
        inputs=[File(str(site.file("a", "word")))],
        outputs=[File(site.url("out"))],
        stdout=File(site.url("said")),
        stderr=File(site.url("wrong")),
    )
    found = read(inputs=[made.outputs[0], made.stdout, made.stderr]).result(TASK_S)
    assert [text for _, text in found[:2]] == ["WORD", "said\n"]
    assert found[2][1].endswith("wrong\n")


def test_servers(site: Site, load: Load) -> None:
    load(VineStaging())
    (site.vine / "server").write_text("far")
    urls = ["vine+sftp://me@h:22/a.txt", f"vine+https://h/b#sha256={'a' * 64}"]
    found = read(inputs=[File(url) for url in urls]).result(TASK_S)
    assert [text for _, text in found] == ["far", "far"]
    assert read(inputs=[File(urls[0])]).result(TASK_S)[0][1] == "far"
    assert site.calls() == [f"get -- {url[5:]}" for url in urls]  # once a worker
    with pytest.raises(StagingError, match="cannot be an output"):
        write("x", outputs=[File(urls[0])])
    site.refuse("edown", "no daemon on this node")
    with pytest.raises(StagingError, match="cannot get 'sftp://.*no daemon on this"):
        read(inputs=[File(f"{urls[0]}.gz")]).result(TASK_S)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("vine://host/path", "write 'vine:///path', with three '/'"),
        ("vine:/path", "with three '/'"),
        ("vine:///", "must name a file"),
        ("vine:///a/", "must name a file"),
        ("vine:///a#b", "must not have control characters or a '#'"),
        (f"vine:///{'n' * 1024}", "longer than 1024 bytes"),
        ("vine+sftp://me:secret@h/p", "must not hold a password"),
        ("vine+https://h/p?token=1", "must not have a query"),
    ],
)
def test_malformed_urls_are_refused_at_once(load: Load, url: str, why: str) -> None:
    load(VineStaging())
    with pytest.raises(StagingError, match=why):
        read(inputs=[File(url)])


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match=r"prefixes takes a list: \['/scratch'\]"):
        VineStaging(prefixes="/scratch")
    with pytest.raises(ValueError, match="'data' is not an absolute path"):
        VineStaging(prefixes=["data"])
    with pytest.raises(ValueError, match="replicas takes 1 to 64, not 0"):
        VineStaging(replicas=0)
    with pytest.raises(ValueError, match="wait_s takes 0 to 86400"):
        VineStaging(wait_s=-1)


def test_only_what_lies_below_a_prefix_is_taken() -> None:
    staging = VineStaging(prefixes=["/scratch/", "/data"])
    for path in ("/scratch/a", "/scratch//b", "/data", "file:///data/x"):
        assert staging.can_stage_in(File(path)), path
    for path in ("/scratchy/a", "/scratch/../etc/passwd", "scratch/a", "/", "/pfs/x"):
        assert not staging.can_stage_in(File(path)), path
    assert not staging.can_stage_out(File("/scratch/a"))
    assert not staging.can_stage_in(File("https://h/a"))
    assert VineStaging(prefixes=["/"]).can_stage_in(File("/a"))


# --- when it cannot be --------------------------------------------------------------


@pytest.mark.parametrize("how", ["outside", "program", "daemon", "old"])
def test_without_vine_env_tasks_use_the_shared_paths(
    site: Site, load: Load, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "outside":
        monkeypatch.delenv("SLURM_JOB_ID")
    elif how == "program":
        site.program.unlink()
    elif how == "daemon":
        site.refuse("edown", "cannot connect to '/run/vine/vined.sock'")
    else:
        site.program.write_text("#!/bin/sh\necho 'no command get' >&2\nexit 2\n")
    load(VineStaging(prefixes=[str(site.shared)]))
    a = site.file("a", "A")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        made = copy(File(str(a)), outputs=[File(site.url("one"))])
        found = read(inputs=[made.outputs[0], File(str(a))]).result(TASK_S)
    assert found == [(f"{site.shared}/one", "A!"), (str(a), "A")]
    ours = [str(w.message) for w in said if "vine-env" in str(w.message)]
    assert len(ours) == 1
    assert ours[0].endswith("; tasks use the shared file system instead")
    assert {
        "outside": "in no job of Slurm",
        "program": "cannot run vine-env: No such file",
        "daemon": "cannot connect to '/run/vine/vined.sock'",
        "old": "no command get",
    }[how] in ours[0]


def test_what_is_lost_is_said_to_be(site: Site, load: Load) -> None:
    load(VineStaging(), retries=2)
    made = write("x", outputs=[File(site.url("one"))])
    made.result(TASK_S)
    (site.vine / "lost").write_text(site.name("one"))
    site.file("one", "of another run")  # must not be taken for it
    site.calls()
    with pytest.raises(LostFileError, match="is lost: the nodes.*copy_back=True"):
        read(inputs=[made.outputs[0]]).result(TASK_S)
    assert len(site.calls()) == 3  # Parsl has tried again


def test_what_nobody_has_made_is_said_to_be(site: Site, load: Load) -> None:
    load(VineStaging())
    nobody = f"no task of job 7 has put '{site.name('one')}', and there is no '{site}'"
    nobody = nobody.replace(str(site), str(site.shared / "one"))
    with pytest.raises(LostFileError) as caught:
        read(inputs=[File(site.url("one"))]).result(TASK_S)
    assert str(caught.value) == f"cannot get '{site.url('one')}': {nobody}"


def test_an_output_that_cannot_be_kept_fails_its_task(site: Site, load: Load) -> None:
    load(VineStaging(scratch_dir=str(site.scratch)))
    site.refuse("enospc", "the store is full")
    (site.shared / "file").write_text("")
    with pytest.raises(StagingError, match="store is full; cannot write '.*file/one'"):
        write("x", outputs=[File(site.url("file/one"))]).result(TASK_S)
    (site.vine / "error").unlink()

    @python_app
    def forgets(outputs=()):
        return None

    with pytest.raises(StagingError, match="the task has written no file 'vine://"):
        forgets(outputs=[File(site.url("two"))]).result(TASK_S)

    @python_app
    def fails(outputs=()):
        open(outputs[0], "w").close()
        raise KeyError("its own")

    with pytest.raises(KeyError, match="its own"):
        fails(outputs=[File(site.url("three"))]).result(TASK_S)
    assert "three" not in "".join(site.calls())
    assert list(site.scratch.iterdir()) == []


def test_a_copy_that_fails_leaves_the_old_file(site: Site, tmp_path: Path) -> None:
    target = site.file("target", "old")
    with pytest.raises(FileNotFoundError):
        _files.copy_whole(str(tmp_path / "none"), str(target))
    assert target.read_text() == "old"
    assert [p.name for p in site.shared.iterdir()] == ["target"]
    source = tmp_path / "source"
    source.write_text("new")
    source.chmod(0o750)
    _files.copy_whole(str(source), str(target))
    assert (target.read_text(), target.stat().st_mode & 0o777) == ("new", 0o750)


# --- in a worker's process ----------------------------------------------------------


def test_a_task_has_one_wrapper_and_travels(site: Site) -> None:
    """As an executor sends it: function and arguments apart, to another process."""
    staging = VineStaging(prefixes=[str(site.shared)])
    one, two = File(str(site.file("a", "A"))), File(site.url("out"))

    def task(given, inputs=(), outputs=()):
        from pathlib import Path

        with open(outputs[0], "w") as out:
            out.write(Path(given).read_text() + Path(inputs[0]).read_text())
        return given.filepath

    func = staging.replace_task(None, "x", one, task)
    assert staging.replace_task(None, "x", one, func) is func
    func = staging.replace_task_stage_out(None, "x", two, func)
    assert func.__name__.endswith(".task")
    packed = pack_apply_message(func, (one,), {"inputs": [one], "outputs": [two]})
    (site.top / "task").write_bytes(packed)
    script = (
        "import sys\nfrom parsl.serialize import unpack_apply_message as unpack\n"
        "func, args, kwargs = unpack(open(sys.argv[1], 'rb').read())\n"
        "print(func(*args, **kwargs))\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", script, str(site.top / "task")],
        env={**os.environ, "PYTHONPATH": f"{PACKAGE}:{HERE}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == str(site.vine / "job/7/a")
    assert len(site.calls()) == 2  # one get, one put
    assert one.local_path is None


# --- doctor -------------------------------------------------------------------------


def findings(storage, provider=None, **more) -> list[str]:
    provider = provider or VineSlurmProvider(
        vine_env="/usr", nodes_per_block=8, launcher=SrunLauncher(), **more
    )
    executor = HighThroughputExecutor(
        label="x", provider=provider, storage_access=storage
    )
    config = Config(executors=[executor])
    return [  # of the executor, not of the host that the tests run on
        str(f).replace(" x:", "")
        for f in doctor(config)
        if f.executor and "source" not in f.text
    ]


def test_doctor_is_content_with_staging(site: Site) -> None:
    staging = VineStaging(prefixes=[str(site.shared)])
    below = f"files below '{site.shared}'"
    assert findings([staging, *default_staging]) == [
        f"ok: VineStaging has 'vine:' files, {below}"
    ]
    assert findings(None) == []


def test_doctor_names_what_staging_lacks(site: Site) -> None:
    staging = VineStaging(prefixes=[str(site.shared)])
    below = f"files below '{site.shared}'"
    assert "storage_access has no VineStaging" in findings(default_staging)[0]
    assert findings([*default_staging, staging]) == [
        f"error: NoOpFileStaging takes {below} before VineStaging is asked: put "
        "VineStaging first in storage_access"
    ]
    assert "nothing in storage_access takes other 'file:'" in findings([staging])[0]
    two = [staging, NoOpFileStaging(), RSyncStaging("host")]
    assert findings(two) == [
        "warning: NoOpFileStaging and RSyncStaging both take other 'file:' files: the "
        "second is never asked"
    ]
    twice = [staging, VineStaging(), NoOpFileStaging()]
    assert "VineStaging and VineStaging both take 'vine:' files" in findings(twice)[0]
    away = findings([VineStaging(prefixes=["/no/such"]), *default_staging])
    assert away == ["warning: prefixes: there is no directory '/no/such' here"]


def test_doctor_knows_what_jobs_do_to_copies(site: Site) -> None:
    def said(staging: VineStaging, **more) -> str:
        return "\n".join(findings([staging, *default_staging], **more))

    assert "max_blocks=3: each block is a job" in said(VineStaging(), max_blocks=3)
    assert said(VineStaging(copy_back=True), max_blocks=3)[:3] == "ok:"
    assert 'add "#SBATCH --no-kill"' in said(VineStaging(replicas=2))
    kept = {"scheduler_options": "#SBATCH --no-kill"}
    assert said(VineStaging(replicas=2), **kept)[:3] == "ok:"
    assert "a block has 8 nodes" in said(VineStaging(replicas=9), **kept)
    local = said(VineStaging(), provider=LocalProvider())
    assert "outside of Slurm VineStaging uses the shared" in local
    site_packages = site.top / "env/lib/python3.11/site-packages"
    site_packages.mkdir(parents=True)
    init = {"worker_init": f"source {site.top}/env/bin/activate"}
    assert "seems to have no vine_env, which workers import" in said(
        VineStaging(), **init
    )
    (site_packages / "vine_env").mkdir()
    assert "seems to have no" not in said(VineStaging(), **init)
