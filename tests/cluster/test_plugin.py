"""The plugin in a real Slurm: what is refused, what is served, what happens without us.

After each test the fixture `nothing_drained` of conftest.py asserts that all nodes are
idle: nothing here may drain one.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from cluster import Cluster, Result, wait_for
from environments import make_environment, make_image

FORM = "SRC[:DST]"
WARNING = "vine-env: warning: "
SHOW = "echo $VINE_ENV_STATE $VINE_ENV $VIRTUAL_ENV"
numbers = itertools.count()


@dataclass(frozen=True)
class Environment:
    """A venv on the shared file system, unlike all others."""

    path: str

    def mounted(self, node: str = "") -> str:
        """A shell command that tells whether it is a local image here."""
        return (
            f"grep -c ' {self.path} ro,nosuid,nodev.* squashfs ' /proc/self/mountinfo"
        )


def make_env(
    cluster: Cluster, user: str = "vine1", mode: str = "755", megabytes: int = 0
) -> Environment:
    top = f"/pfs/home/{user}/plugin-{next(numbers)}"
    path = f"{top}/env"
    cluster.sh(
        "n1",
        f"rm -rf {top} && mkdir -p {path} && python3 -m venv --without-pip {path} &&"
        f" head -c {64 + (megabytes << 20)} /dev/urandom > {path}/unique &&"
        f" chmod {mode} {top}",
        user=user,
    )
    return Environment(path)


@pytest.fixture(params=["optional", "required"], scope="module")
def word(request: pytest.FixtureRequest) -> str:
    """What admins write in plugstack.conf; both must work alike."""
    return request.param


@pytest.fixture
def slurm(vine: Cluster, word: str) -> Iterator[Cluster]:
    """The cluster with the plugin as optional, then as required."""
    script = f"sed -i -E 's,^(optional|required) (.*/vine_env.so),{word} \\2,' {{}}"
    for node in ["ctl", *vine.nodes]:
        vine.sh(node, script.format("/etc/slurm/plugstack.conf"))
    yield vine
    vine.pfs_set(root_squash=0)


@pytest.fixture
def env(slurm: Cluster) -> Environment:
    return make_env(slurm)


def warnings(text: str) -> list[str]:
    return [line for line in text.splitlines() if WARNING in line]


def both(result: Result) -> str:
    return result.out + result.err


# --- refused before anything starts -------------------------------------------------

MALFORMED = {
    "empty": "",
    "relative": "envs/ml",
    "three parts": "/a:/b:/c",
    "empty part": "/usr,,/bin",
    "no source": ":/usr",
    "dots": "/usr/../etc",
    "newline": "/usr\n",
    "escape": "/usr\x1b[2J",
    "100 kB": "/" + "a" * 100_000,
    "too many": ",".join(f"/usr/{i}" for i in range(20)),
    "twice": "/usr,/usr",
    "scheme": "sftp://host/env",
}


@pytest.mark.parametrize("value", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_options_are_refused_at_once(slurm: Cluster, value: str) -> None:
    before = slurm.run("ctl", "scontrol", "show", "job", "-o").out
    tries = [
        slurm.srun(f"--vine-env={value}", "true", check=False),
        slurm.run("n1", "sbatch", f"--vine-env={value}", "--wrap=true", user="vine1",
                  check=False),
        slurm.run("n1", "salloc", f"--vine-env={value}", "true", user="vine1",
                  check=False),
    ]  # fmt: skip
    for result in tries:
        assert result.code == 1, str(result)[:2000]
        assert "vine-env: " in result.err
        assert FORM in result.err
        assert "\x1b" not in result.err
    assert slurm.run("ctl", "scontrol", "show", "job", "-o").out == before


def test_an_absent_source_is_refused_at_once(slurm: Cluster) -> None:
    result = slurm.srun("--vine-env=/pfs/no/such", "true", check=False)
    assert result.code == 1
    assert "source '/pfs/no/such' does not exist here" in result.err


def test_a_wrong_fallback_is_refused(slurm: Cluster, env: Environment) -> None:
    result = slurm.srun(
        f"--vine-env={env.path}", "--vine-fallback=perhaps", "true", check=False
    )
    assert result.code == 1
    assert "--vine-fallback takes origin or fail" in result.err


def test_the_variable_is_checked_like_the_option(slurm: Cluster) -> None:
    result = slurm.srun("true", env={"VINE_ENV_SPEC": "envs/ml"}, check=False)
    assert result.code == 1
    assert FORM in result.err


# --- served -------------------------------------------------------------------------


def test_each_node_mounts_the_image_at_the_sources_path(
    slurm: Cluster, env: Environment
) -> None:
    result = slurm.srun(
        "-N4", f"--vine-env={env.path}", "sh", "-c", f"{env.mounted()}; {SHOW}"
    )
    assert result.out.splitlines().count("1") == 4
    assert result.out.count(f"local {env.path} {env.path}\n") == 4
    assert not warnings(both(result))


def test_python_and_writing(slurm: Cluster, env: Environment) -> None:
    code = "import sys; print(sys.prefix)"
    result = slurm.srun(f"--vine-env={env.path}", "python3", "-c", code)
    assert result.out.strip() == env.path
    result = slurm.srun(
        f"--vine-env={env.path}", "touch", f"{env.path}/new", check=False
    )
    assert result.code == 1
    assert "Read-only file system" in result.err


def test_the_view_is_private_to_the_tasks(slurm: Cluster, env: Environment) -> None:
    """Neither the node nor the extern step sees it."""
    running = slurm.srun_start(
        "-w", "n2", f"--vine-env={env.path}", "sh", "-c", f"{env.mounted()}; sleep 60"
    )
    wait_for(lambda: running.out.startswith("1"), 20, "the task")
    assert slurm.sh("n2", f"{env.mounted()} || true").strip() == "0"
    count = f"for p in $(pgrep -f '[.]extern|100000000'); do grep -c {env.path}"
    seen = slurm.sh("n2", f"{count} /proc/$p/mountinfo; done; true").split()
    assert seen
    assert set(seen) == {"0"}
    slurm.run("n1", "scancel", "-u", "vine1", user="vine1")
    running.wait(20)


def test_the_batch_step_is_served_and_steps_inherit(
    slurm: Cluster, env: Environment
) -> None:
    other = make_env(slurm)
    script = f"""
        {env.mounted()}; {SHOW}
        echo $PATH | tr : '\\n' | grep -c '^{env.path}/bin$'
        srun -N1 -n1 sh -c '{SHOW}; echo $PATH'
        srun -N1 -n1 --vine-env={other.path} sh -c '{SHOW}; echo $PATH'
    """
    # Quiet, as its steps are then: what follows counts lines.
    job = slurm.sbatch(script, "-N2", f"--vine-env={env.path}", "--vine-quiet")
    assert job.state == "COMPLETED", job.out
    lines = job.out.splitlines()
    here, there = env.path, other.path
    assert lines[:3] == ["1", f"local {here} {here}", "1"]
    assert lines[3] == f"local {here} {here}"
    assert lines[4].split(":").count(f"{here}/bin") == 1
    assert lines[4].startswith(f"{here}/bin:")
    assert lines[5] == f"local {there} {there}"
    assert lines[6].startswith(f"{there}/bin:{here}/bin:")


def test_a_directive_in_the_script_and_salloc(slurm: Cluster, env: Environment) -> None:
    words = f"#SBATCH --vine-env={env.path}\n#SBATCH --vine-quiet"
    job = slurm.sbatch(f"#!/bin/sh\n{words}\n{SHOW}")
    assert job.out.strip() == f"local {env.path} {env.path}"
    salloc = ["salloc", "-N2", f"--vine-env={env.path}", "srun", "sh", "-c", SHOW]
    result = slurm.run("n1", *salloc, user="vine1")
    assert result.out.count(f"local {env.path}") == 2


def test_the_variable_serves_like_the_option(slurm: Cluster, env: Environment) -> None:
    job_env = {"VINE_ENV_SPEC": env.path}
    result = slurm.srun("-N2", "sh", "-c", SHOW, env=job_env)
    assert result.out.count(f"local {env.path}") == 2
    other = make_env(slurm)
    result = slurm.srun(f"--vine-env={other.path}", "sh", "-c", SHOW, env=job_env)
    assert result.out.strip() == f"local {other.path} {other.path}"


def test_two_sources_and_destinations(slurm: Cluster, env: Environment) -> None:
    other = make_env(slurm)
    dst = "/home/vine1/plugin-dst"
    slurm.sh("n1", f"mkdir -p {dst}", user="vine1")
    result = slurm.srun(
        f"--vine-env={env.path}:{dst},{other.path}", "sh", "-c", f"{SHOW}; echo $PATH"
    )
    lines = result.out.splitlines()
    assert lines[0] == f"local {dst} {dst}"
    assert lines[1].startswith(f"{dst}/bin:{other.path}/bin:")
    assert not warnings(both(result))


def test_an_archive_appears_at_the_default_destination(
    slurm: Cluster, env: Environment
) -> None:
    archive = f"{env.path}.tar.gz"
    slurm.sh("n1", f"tar czf {archive} -C {env.path} .", user="vine1")
    result = slurm.srun("-N2", f"--vine-env={archive}", "sh", "-c", SHOW)
    assert result.out.count("local /run/vine/env/env /run/vine/env/env\n") == 2
    assert slurm.sh("n1", "ls /run/vine/env 2>/dev/null | wc -l").strip() == "0"


def test_a_private_home_on_a_root_squashed_file_system(slurm: Cluster) -> None:
    env = make_env(slurm, mode="700")
    slurm.pfs_set(root_squash=1)
    top = env.path.rpartition("/")[0]
    refused = slurm.run("n1", "ls", top, check=False)
    assert refused.code != 0, "the stand-in does not squash root"
    result = slurm.srun("-N2", f"--vine-env={env.path}", "sh", "-c", env.mounted())
    assert result.out.split() == ["1", "1"]
    link = f"{top}/link"
    slurm.sh("n1", f"ln -s env {link}", user="vine1")
    result = slurm.srun("-N2", f"--vine-env={link}", "sh", "-c", SHOW)
    assert result.out.count(f"local {link} {link}") == 2
    assert not warnings(both(result))


def test_a_directory_that_only_a_group_may_enter(
    slurm: Cluster, env: Environment
) -> None:
    """The mount point is walked to with all groups of the job's user."""
    top = f"/pfs/group-{next(numbers)}"
    slurm.sh("n1", f"install -d -m 750 -o root -g vine {top} && mv {env.path} {top}/")
    slurm.pfs_set(root_squash=1)
    env = Environment(f"{top}/env")
    result = slurm.srun("-N2", f"--vine-env={env.path}", "sh", "-c", env.mounted())
    assert result.out.split() == ["1", "1"]
    assert not warnings(result.err)


# --- not served ---------------------------------------------------------------------


def test_without_a_daemon_the_job_runs_from_the_source(
    slurm: Cluster, env: Environment
) -> None:
    slurm.daemon("n2", "stop")
    result = slurm.srun("-w", "n2", f"--vine-env={env.path}", "sh", "-c", SHOW)
    assert result.out.strip() == f"origin {env.path} {env.path}"
    (line,) = warnings(result.err)
    assert f"running from '{env.path}' instead" in line
    assert "n2: no daemon answers" in line
    result = slurm.srun("-w", "n2", f"--vine-env={env.path}", "sh", "-c", "exit 7",
                        check=False)  # fmt: skip
    assert result.code == 7


def test_a_job_is_warned_once_not_by_each_step(
    slurm: Cluster, env: Environment
) -> None:
    slurm.daemon("n1", "stop")
    script = f"{SHOW}\nsrun -n1 sh -c '{SHOW}'\nsrun -n2 sh -c '{SHOW}'"
    job = slurm.sbatch(script, "-n2", "-w", "n1", f"--vine-env={env.path}")
    assert job.state == "COMPLETED", job.out
    assert len(warnings(job.out)) == 1, job.out
    assert job.out.count(f"origin {env.path} {env.path}") == 4


def test_fallback_binds_the_source_on_its_destination(
    slurm: Cluster, env: Environment
) -> None:
    dst = "/home/vine1/plugin-dst"
    slurm.sh("n1", f"mkdir -p {dst}", user="vine1")
    slurm.daemon("n2", "stop")
    result = slurm.srun(
        "-w", "n2", f"--vine-env={env.path}:{dst}", "sh", "-c", f"{SHOW}; ls {dst}"
    )
    assert result.out.startswith(f"origin {dst} {dst}\n")
    assert "unique" in result.out.split()
    assert len(warnings(result.err)) == 1


def test_a_daemon_that_hangs_costs_a_deadline(slurm: Cluster, env: Environment) -> None:
    """It takes connections and never answers: prolog, wait and epilog all end."""
    conf = "/etc/vine-env/vine-env.conf"
    slurm.sh("n2", f"cp {conf} {conf}.saved")
    slurm.sh("n2", f"printf '[plugin]\\nstage_timeout = 2\\n' >> {conf}")
    slurm.sh("n2", "pkill -STOP -x vined")
    try:
        words = ["-w", "n2", f"--vine-env={env.path}", "sh", "-c", SHOW]
        result = slurm.srun(*words, timeout=20)
        assert result.out.strip() == f"origin {env.path} {env.path}"
        (line,) = warnings(result.err)
        assert "not staged within 2 s" in line
        wait_for(lambda: not slurm.jobs(), 10, "the end of the job")
    finally:
        slurm.sh("n2", f"pkill -CONT -x vined; mv {conf}.saved {conf}")


def test_fail_raises_where_srun_sees_it(slurm: Cluster, env: Environment) -> None:
    slurm.daemon("n2", "stop")
    words = ["-w", "n2", f"--vine-env={env.path}", "--vine-fallback=fail"]
    result = slurm.srun(*words, "-n2", "echo", "started", check=False)
    assert result.code == 1
    assert "started" not in result.out
    lines = [line for line in result.err.splitlines() if "no daemon answers" in line]
    assert len(lines) == 1, result.err
    assert "vine-env doctor" in lines[0]
    job = slurm.sbatch("echo started", *words)
    assert job.state == "FAILED"
    assert job.code == 1
    assert "started" not in job.out
    assert "no daemon answers" in job.out


def test_an_unreadable_source_is_told_once_for_all_nodes(slurm: Cluster) -> None:
    env = make_env(slurm, mode="700")
    result = slurm.srun("-N2", f"--vine-env={env.path}", "true", user="vine2")
    (line,) = warnings(result.err)
    assert env.path in line
    assert "Permission denied" in line
    words = ["-N2", f"--vine-env={env.path}", "--vine-fallback=fail", "true"]
    assert slurm.srun(*words, user="vine2", check=False).code == 1


def test_without_a_manager_one_node_tells(slurm: Cluster, env: Environment) -> None:
    slurm.daemon("ctl", "stop")
    result = slurm.srun("-N2", f"--vine-env={env.path}", "sh", "-c", SHOW)
    assert result.out.count(f"origin {env.path} {env.path}") == 2
    assert len(warnings(result.err)) == 1, result.err


DESTINATIONS = {
    "/home/vine1/absent": "does not exist",
    "/etc/passwd": "is no directory",
    "/etc": "belongs to the system",
    "/root/x": "Permission denied",
}


@pytest.mark.parametrize("dst", DESTINATIONS)
def test_a_wrong_destination_is_told_and_the_job_runs(
    slurm: Cluster, env: Environment, dst: str
) -> None:
    result = slurm.srun(f"--vine-env={env.path}:{dst}", "sh", "-c", SHOW)
    (line,) = warnings(result.err)
    assert f"mount point '{dst}'" in line
    assert DESTINATIONS[dst] in line
    assert result.out.strip() == f"origin {env.path} {env.path}"


# --- while it waits -----------------------------------------------------------------


def test_progress_is_told_by_one_node_and_can_be_silenced(slurm: Cluster) -> None:
    env = make_env(slurm, megabytes=8)
    slurm.run("n1", "vine-env", "stage", env.path, user="vine1")
    for node in ("n2", "n3"):
        slurm.shape(node, "8mbit")
    words = ["-N2", "-w", "n2,n3", f"--vine-env={env.path}", "sh", "-c", SHOW]
    result = slurm.srun(*words)
    assert result.out.count("local") == 2
    lines = [line for line in result.err.splitlines() if "fetching" in line]
    assert lines
    shares = [int(line.partition(" %")[0].split()[-1]) for line in lines]
    assert shares == sorted(set(shares)), result.err
    assert any(re.search(r"; slowest of 2 nodes: n[23], \d+ %$", x) for x in lines)
    assert any("100 % from peers" in line for line in lines)
    assert any(re.search(r"B/s, .*, about \d+ s left;", line) for line in lines)
    assert result.err.count("env: ready after") == 1
    slurm.shape("n4", "8mbit")
    result = slurm.srun("--vine-quiet", "-w", "n4", f"--vine-env={env.path}", "true")
    assert "vine-env" not in result.err


def said(result: Result) -> list[str]:
    lines = result.err.splitlines()
    return [line[line.index("vine-env: ") :] for line in lines if "vine-env: " in line]


def test_another_nodes_build_is_told(slurm: Cluster) -> None:
    """Of the two nodes the first that asks is the reader; n2 speaks."""
    env = make_env(slurm, megabytes=40)
    slurm.pfs_drop_caches()
    slurm.pfs_set(client_mbs=4)
    running = slurm.srun_start(
        "-N2", "-w", "n2,n3", f"--vine-env={env.path}", "sh", "-c", SHOW
    )
    wait_for(lambda: "building the image" in running.err, 40, "a line of the build")
    slurm.pfs_set(client_mbs=0)
    result = running.wait(60)
    assert result.out.count("local") == 2
    shares = [line for line in said(result) if "building the image" in line]
    assert any(re.search(r"building the image( on n[23])? \d+ % \(", s) for s in shares)


def test_the_end_of_staging_is_one_line_a_job(slurm: Cluster) -> None:
    env = make_env(slurm)
    words = ["-N2", "-w", "n2,n3", f"--vine-env={env.path}"]
    (line,) = said(slurm.srun(*words, "true"))
    assert re.fullmatch(r"vine-env: env: ready( after \d+ s)?", line)
    assert said(slurm.srun(*words, "true")) == ["vine-env: env: cached"]
    assert said(slurm.srun(*words, "--vine-quiet", "true")) == []
    job = slurm.sbatch("srun true\nsrun true", *words)
    assert job.out.count("vine-env: ") == job.out.count("vine-env: env: cached") == 1


def stage_slowly(slurm: Cluster, megabytes: int = 30) -> Environment:
    """An environment that n2 will need half a minute for."""
    env = make_env(slurm, megabytes=megabytes)
    slurm.run("n1", "vine-env", "stage", env.path, user="vine1")
    slurm.shape("n2", "8mbit")
    return env


@pytest.mark.parametrize("batch", [False, True], ids=["srun", "sbatch"])
def test_a_cancelled_job_is_gone_at_once(slurm: Cluster, batch: bool) -> None:
    env = stage_slowly(slurm)
    words = ["-w", "n2", f"--vine-env={env.path}"]
    mark = f"{env.path.removesuffix('env')}started"
    if batch:
        job = slurm.submit(f"touch {mark}", *words)
    else:
        running = slurm.srun_start(*words, "touch", mark)
        job = int(wait_for(lambda: slurm.jobs(), 10, "the job")[0].split()[0])
    busy = "pgrep -f 'slurmstepd: .[0-9]*.(0|batch)' || true"
    wait_for(lambda: slurm.sh("n2", busy).strip(), 10, "the waiting step")
    slurm.run("n1", "scancel", str(job), user="vine1")
    wait_for(lambda: not slurm.jobs(), 10, "the end of the job")
    wait_for(lambda: slurm.node_states()["n2"] == "idle", 10, "an idle node")
    assert slurm.job_field(job, "JobState") == "CANCELLED"
    assert slurm.run("n1", "test", "-e", mark, check=False).code == 1
    if not batch:
        assert not warnings(running.wait(20).err)


def test_a_daemon_that_restarts_is_asked_again(slurm: Cluster) -> None:
    env = stage_slowly(slurm, megabytes=8)
    running = slurm.srun_start("-w", "n2", f"--vine-env={env.path}", "sh", "-c", SHOW)
    wait_for(lambda: "fetching" in running.err, 20, "progress")
    slurm.daemon("n2", "kill")
    slurm.daemon("n2", "start")
    result = running.wait(90)
    assert result.out.strip() == f"local {env.path} {env.path}", str(result)
    assert not warnings(result.err)


def test_64_steps_at_once_share_one_mount_and_no_turn(vine: Cluster) -> None:
    """All are there before any goes on: no step waits for another's end."""
    env = make_environment(vine)
    image, _ = make_image(vine, env)
    here = f"{env.path}-steps"
    task = (
        f"touch {here}/$SLURM_STEP_ID;"
        f"until [ $(ls {here} | wc -l) -ge 64 ]; do sleep 0.1; done;"
        f'grep " {env.path} " /proc/self/mountinfo | grep -o " - squashfs [^ ]*"'
    )
    script = f"""
        mkdir {here}
        for i in $(seq 64); do
            srun --overlap -N1 -n1 --mem=0 --vine-env={image} bash -c '{task}' &
        done
        wait
        echo job=$SLURM_JOB_ID
    """
    result = vine.srun("-N1", "-w", "n2", "-n1", "--mem=0", "bash", "-c", script)
    *lines, job = result.out.splitlines()
    assert len(lines) == 64, result.err
    assert len(set(lines)) == 1  # the same loop device for all
    mounts = vine.sh("n2", f"grep -c '^{lines[0].split()[-1]} ' /proc/mounts")
    assert mounts.strip() == "1"
    # Asked once for the job, not once a step.
    said = vine.log("ctl").splitlines()
    assert sum("event=resolve " in line and f" {job} " in line for line in said) == 1
    vine.sh("n1", f"rm -rf {here} {image}", user="vine1")
