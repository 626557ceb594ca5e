"""vine-env get and put: files that a job's tasks ask for, and offer to each other."""

from __future__ import annotations

import json
import re
import shlex
import time
from typing import Any

import pytest
from cluster import Cluster, Result, Running, wait_for
from environments import moved, totals
from test_data import HOME, content, make_file

MIB = 1 << 20
SIZE = 8 * MIB


class JobOf:
    """A job of some nodes that does nothing, in which steps are run."""

    def __init__(self, vine: Cluster, nodes: str, user: str = "vine1") -> None:
        self.vine = vine
        self.user = user
        script = "#!/bin/sh\nexec sleep 600\n"
        self.number = vine.submit(script, "-w", nodes, user=user)
        wait_for(
            lambda: vine.job_field(self.number, "JobState") == "RUNNING", 30, "job runs"
        )

    def step(self, node: str, script: str, check: bool = True) -> Result:
        words = [f"--jobid={self.number}", "--overlap", "-N1", "-n1", "-w", node]
        return self.vine.srun(*words, "bash", "-c", script, user=self.user, check=check)

    def start(self, node: str, script: str) -> Running:
        words = [f"--jobid={self.number}", "--overlap", "-N1", "-n1", "-w", node]
        return self.vine.srun_start(*words, "bash", "-c", script, user=self.user)

    def end(self) -> None:
        self.vine.run("n1", "scancel", str(self.number), user=self.user, check=False)
        wait_for(lambda: not self.vine.jobs(), 30, "the job ends")


@pytest.fixture
def job(vine: Cluster) -> Any:
    made = JobOf(vine, "n[1-4]")
    yield made
    made.end()


def got(result: Result) -> dict[str, Any]:
    return json.loads(result.out)


def job_mounts(vine: Cluster, node: str) -> list[str]:
    text = vine.sh(node, "findmnt -rn -o TARGET")
    return [x for x in text.splitlines() if x.startswith("/run/vine/job/")]


def put(job: JobOf, node: str, name: str, text: str, more: str = "") -> Result:
    # Steps that a batch script starts know its nodes; those from outside do not.
    script = (
        f"export SLURM_JOB_NODELIST='n[1-4]'; f=$(mktemp) && "
        f'printf %s {shlex.quote(text)} > "$f" && '
        f'vine-env put "$f" {shlex.quote(name)} {more} && rm -f "$f"'
    )
    return job.step(node, script)


def test_get_brings_a_file_once_for_all_nodes(vine: Cluster, job: JobOf) -> None:
    path = f"{HOME}/files/input.bin"
    digest = make_file(vine, path, content(SIZE, 5))
    vine.evict_all()
    vine.pfs_drop_caches()
    vine.pfs_zero()
    before = totals(vine)
    seen = set()
    for node in ("n1", "n2", "n3", "n4"):
        found = got(job.step(node, f"vine-env get --json {path}"))
        assert found["size"] == SIZE
        seen.add(found["path"])
        # A later step of the job finds it there.
        ran = job.step(node, f"sha256sum < {found['path']}; ls {found['path']}")
        assert digest in ran.out
    (shown,) = seen
    assert shown.startswith(f"/run/vine/job/{job.number}/")
    assert shown.endswith("/input.bin")
    assert SIZE <= vine.pfs_counters()["bytes_read"] <= 1.05 * SIZE
    assert moved(before, totals(vine))["bytes_peer"] >= 3 * SIZE


def test_a_directory_and_a_second_name(vine: Cluster, job: JobOf) -> None:
    make_file(vine, f"{HOME}/files/tree/a/one", b"one")
    make_file(vine, f"{HOME}/files/tree/two", b"two")
    found = job.step("n2", f"vine-env get {HOME}/files/tree").out.strip()
    assert found.endswith("/tree")
    assert job.step("n2", f"cat {found}/a/one {found}/two").out == "onetwo"
    again = job.step("n2", f"vine-env get {HOME}/files/tree").out.strip()
    assert again == found
    assert len(job_mounts(vine, "n2")) == 2  # the job's directory and the tree


def test_it_is_the_jobs_own_and_cannot_be_changed(vine: Cluster, job: JobOf) -> None:
    path = f"{HOME}/files/own.txt"
    make_file(vine, path, b"mine")
    vine.run("n1", "chmod", "600", path, user="vine1")
    found = job.step("n3", f"vine-env get {path}").out.strip()
    top = f"/run/vine/job/{job.number}"
    for script in (f"cat {found}", f"ls {top}", f"cd {top}"):
        other = vine.run("n3", "sh", "-c", script, user="vine2", check=False)
        assert other.code != 0 and re.search("Permission denied|can.t cd", other.err)
    other_job = JobOf(vine, "n3", user="vine2")
    try:
        refused = other_job.step("n3", f"cat {found}", check=False)
        assert refused.code != 0 and "Permission denied" in refused.err
        refused = other_job.step("n3", f"vine-env get {path}", check=False)
        assert refused.code != 0 and "Permission denied" in refused.err
    finally:
        vine.run("n1", "scancel", str(other_job.number), user="vine2")
    for script in (
        f"echo x > {found}",
        f"rm -f {found}",
        f"chmod 700 {top}",
        f"mkdir {top}/x",
        f"mv {top} /tmp/away",
        f"rmdir {top}/*",
    ):
        ran = job.step("n3", script, check=False)
        assert ran.code != 0, script
    assert job.step("n3", f"cat {found}").out == "mine"


def test_a_task_with_mounts_of_its_own_sees_it(vine: Cluster, job: JobOf) -> None:
    """With --vine-data a task has a private mount namespace."""
    make_file(vine, f"{HOME}/files/first.txt", b"first")
    make_file(vine, f"{HOME}/files/later.txt", b"later")
    script = (
        f'test "$VINE_DIR" = /run/vine/job/{job.number} || exit 9\n'
        f"p=$(vine-env get {HOME}/files/later.txt) && cat $p && case $p in "
        '"$VINE_DIR"/*) ;; *) exit 8 ;; esac'
    )
    words = [f"--jobid={job.number}", "--overlap", "-N1", "-n1", "-w", "n4"]
    data = f"--vine-data={HOME}/files/first.txt"
    ran = vine.srun(*words, data, "bash", "-c", script, check=False)
    assert (ran.code, ran.out) == (0, "later"), ran.err


def test_put_on_one_node_get_on_another(vine: Cluster, job: JobOf) -> None:
    vine.pfs_drop_caches()
    vine.pfs_zero()
    put(job, "n1", "out/a.txt", "made on n1")
    found = job.step("n3", "vine-env get vine:out/a.txt").out.strip()
    assert found.endswith("/a.txt")
    assert job.step("n3", f"cat {found}").out == "made on n1"
    assert job.step("n1", 'cat "$(vine-env get vine:out/a.txt)"').out == "made on n1"
    assert vine.pfs_counters()["bytes_read"] < 4096


def test_put_again_replaces_it_for_later_askers(vine: Cluster, job: JobOf) -> None:
    put(job, "n1", "result", "first")
    old = job.step("n2", "vine-env get vine:result").out.strip()
    put(job, "n4", "result", "second")
    new = job.step("n2", "vine-env get vine:result").out.strip()
    assert job.step("n2", f"cat {old} {new}").out == "firstsecond"
    assert job.step("n3", 'cat "$(vine-env get vine:result)"').out == "second"


def test_replaced_versions_leave_the_stores(vine: Cluster, job: JobOf) -> None:
    """What no task was given the path of; a loop of puts does not fill the disks."""
    given = ""
    for number in range(4):
        put(job, "n1", "state", f"{number}" * 1000, "--replicas 2")
        if number == 1:
            given = job.step("n2", "vine-env get vine:state").out.strip()

    def leased(node: str) -> int:
        return sum(o["leases"] for o in vine.status(node)["objects"])

    everywhere = ("n1", "n2", "n3", "n4")
    # The last one on two nodes, the one that was given on n2.
    vine.wait_for(lambda: sum(map(leased, everywhere)) == 3, 20, "the versions to go")
    vine.evict_all()
    assert job.step("n2", f"head -c 3 {given}").out == "111"
    last = "head -c 3 $(vine-env get vine:state)"
    assert [job.step(node, last).out for node in everywhere] == ["333"] * 4


def test_put_sees_what_the_task_sees(vine: Cluster, job: JobOf) -> None:
    """The file lies on a mount that no other process has."""
    make_file(vine, f"{HOME}/files/data.txt", b"data")
    script = "unshare -rm sh -c 'mount -t tmpfs x /mnt && echo private > /mnt/f && "
    script += "vine-env put /mnt/f seen'"
    ran = job.step("n2", script, check=False)
    if ran.code != 0 and "unshare" in ran.err:
        # No user namespaces here: the plugin's own mounts are private too.
        words = [f"--jobid={job.number}", "--overlap", "-N1", "-n1", "-w", "n2"]
        data = f"--vine-data={HOME}/files/data.txt:/run/vine/env/given"
        put_it = "vine-env put /run/vine/env/given seen"
        vine.srun(*words, data, "bash", "-c", put_it)
        assert job.step("n3", 'cat "$(vine-env get vine:seen)"').out == "data"
        return
    assert ran.code == 0, ran.err
    assert job.step("n3", 'cat "$(vine-env get vine:seen)"').out == "private\n"


def test_names_belong_to_one_job(vine: Cluster, job: JobOf) -> None:
    put(job, "n1", "secret", "of vine1")
    for user in ("vine1", "vine2"):
        other = JobOf(vine, "n1", user=user)
        refused = other.step("n1", "vine-env get vine:secret", check=False)
        assert refused.code != 0
        assert f"no task of job {other.number} has put 'secret'" in refused.err
        vine.run("n1", "scancel", str(other.number), user=user)


def test_wait_until_it_is_put(vine: Cluster, job: JobOf) -> None:
    missing = job.step("n2", "vine-env get vine:late --json", check=False)
    assert missing.code != 0
    assert json.loads(missing.out)["error"]["code"] == "enoent"
    waiting = job.start("n2", 'cat "$(vine-env get vine:late --wait 60)"')
    asks = "pgrep -f 'vine-env get vine:late' || true"
    wait_for(lambda: vine.sh("n2", asks), 20, "the step to ask")
    put(job, "n3", "late", "at last")
    assert waiting.wait(60).out == "at last"
    path = f"{HOME}/files/not-yet"
    waiting = job.start("n2", f'cat "$(vine-env get {path} --wait 60)"')
    make_file(vine, path, b"there")
    assert waiting.wait(60).out == "there"
    began = time.monotonic()
    gave_up = job.step("n2", "vine-env get vine:never --wait 2", check=False)
    assert gave_up.code != 0 and time.monotonic() - began >= 1.5


def test_replicas_outlive_their_node(vine: Cluster, job: JobOf) -> None:
    put(job, "n2", "kept", "twice", "--replicas 2")
    put(job, "n2", "single", "once")
    vine.daemon("n2", "kill")
    try:
        assert job.step("n3", 'cat "$(vine-env get vine:kept)"').out == "twice"
        lost = job.step("n3", "vine-env get vine:single", check=False)
        assert lost.code != 0
        assert "'single' is lost" in lost.err and "--replicas" in lost.err
    finally:
        vine.daemon("n2", "start")
    # Its store has survived: what was lost is there again.
    again = job.step("n3", 'cat "$(vine-env get vine:single --wait 30)"', check=False)
    assert again.out == "once" or "is lost" in again.err


def test_more_replicas_than_nodes_are_refused(vine: Cluster, job: JobOf) -> None:
    nodes = "export SLURM_JOB_NODELIST='n[1-4]'; "
    words = f"{nodes} vine-env put /etc/hostname x --replicas 9"
    ran = job.step("n1", words, check=False)
    assert ran.code != 0 and "3 nodes beside this one" in ran.err
    ran = job.step("n1", "vine-env put /etc/hostname x --replicas 0", check=False)
    assert ran.code != 0 and "--replicas takes a number from 1 to 64" in ran.err


def test_copies_stay_on_the_jobs_nodes(vine: Cluster, job: JobOf) -> None:
    """Which nodes those are the environment says, and that is the task's to change."""
    script = (
        "export SLURM_JOB_NODELIST='n[1,7]'; echo mine > /tmp/mine.$$; "
        "vine-env put /tmp/mine.$$ away --replicas 2; code=$?; rm /tmp/mine.$$; "
        "exit $code"
    )
    before = {o["digest"] for o in vine.status("n7")["objects"]}
    refused = job.step("n1", script, check=False)
    assert refused.code != 0
    assert "not copied to n7: the job has no tasks there" in refused.err
    assert {o["digest"] for o in vine.status("n7")["objects"]} == before
    assert job.step("n2", 'cat "$(vine-env get vine:away)"').out == "mine\n"


def test_many_ask_at_once(vine: Cluster, job: JobOf) -> None:
    put(job, "n1", "for all", "shared")
    ask = "printf '%s\\n' \"$(cat \"$(vine-env get 'vine:for all')\")\""
    script = f"for i in $(seq 200); do ({ask}) & done; wait"
    ran = job.step("n2", script)
    assert ran.out.split() == ["shared"] * 200, ran.err[:3000]
    assert len(job_mounts(vine, "n2")) == 2


@pytest.mark.parametrize("name", ["50%", "%2F", "a b/c", "é", "-x", "..", "a:b,c\\d"])
def test_odd_names_arrive(vine: Cluster, job: JobOf, name: str) -> None:
    word = shlex.quote(name)
    script = (
        f"f=$(mktemp) && echo odd > $f && vine-env put -- $f {word} && rm $f && "
        f'cat "$(vine-env get -- {shlex.quote("vine:" + name)})"'
    )
    assert job.step("n1", script).out == "odd\n"


def test_an_interrupted_put_leaves_nothing(vine: Cluster, job: JobOf) -> None:
    path = f"{HOME}/files/long.bin"
    make_file(vine, path, content(64 * MIB, 9))
    vine.evict_all()
    vine.pfs_drop_caches()
    vine.pfs_set(bw_mbs=4)
    vine.pfs_zero()
    pid_file = f"{HOME}/files/put.pid"
    try:
        putting = job.start(
            "n1", f"echo $$ > {pid_file}; exec vine-env put {path} long"
        )
        vine.wait_for(
            lambda: vine.pfs_counters()["bytes_read"] > MIB, 30, "the file to be read"
        )
        vine.sh("n1", f"kill -INT $(cat {pid_file})")
        ended = putting.wait(30)
    finally:
        vine.pfs_set(bw_mbs=0)
    assert ended.code != 0
    vine.wait_for(lambda: not vine.status("n1")["objects"], 20, "the store to be empty")
    vine.wait_for(
        lambda: not vine.sh("n1", "ls /local/vine/partial").split(), 20, "no remains"
    )
    missing = job.step("n1", "vine-env get vine:long", check=False)
    assert "no task of job" in missing.err


def test_names_and_mounts_go_with_the_job(vine: Cluster) -> None:
    made = JobOf(vine, "n[1-2]")
    path = f"{HOME}/files/gone.bin"
    make_file(vine, path, content(MIB, 9))
    put(made, "n1", "gone", "with the job")
    held = made.step("n2", f"vine-env get vine:gone; vine-env get {path}").out.split()
    assert len(held) == 2 and len(job_mounts(vine, "n2")) == 3
    made.end()
    wait_for(lambda: not job_mounts(vine, "n2"), 20, "the mounts go")
    assert vine.sh("n2", "ls -A /run/vine/job /run/vine/jobs").split() == [
        "/run/vine/job:",
        "/run/vine/jobs:",
    ]
    jobs = [row["job"] for node in vine.nodes for row in vine.status(node)["jobs"]]
    assert str(made.number) not in jobs


def test_a_restarted_daemon_goes_on(vine: Cluster, job: JobOf) -> None:
    path = f"{HOME}/files/restart.bin"
    digest = make_file(vine, path, content(MIB, 11))
    put(job, "n1", "before", "kept by n1")
    found = job.step("n1", f"vine-env get {path}").out.strip()
    for action in ("kill", "start"):
        vine.daemon("n1", action)
    assert digest in job.step("n1", f"sha256sum < {found}").out
    assert job.step("n1", f"vine-env get {path}").out.strip() == found
    get = 'cat "$(vine-env get vine:before --wait 20)"'
    assert job.step("n2", get).out == "kept by n1"


def test_a_file_without_its_mount_gets_it_again(vine: Cluster, job: JobOf) -> None:
    """As after a daemon that ended between making the place and mounting on it."""
    path = f"{HOME}/files/bare.txt"
    make_file(vine, path, b"not empty")
    found = job.step("n2", f"vine-env get {path}").out.strip()
    vine.sh("n2", f"umount {found}")
    assert job.step("n2", f"cat {found}", check=False).out == ""
    assert job.step("n2", f"vine-env get {path}").out.strip() == found
    assert job.step("n2", f"cat {found}").out == "not empty"


def test_a_restarted_manager_learns_the_names(vine: Cluster, job: JobOf) -> None:
    put(job, "n1", "known", "old")
    put(job, "n2", "known", "new")
    vine.daemon("ctl", "kill")
    vine.daemon("ctl", "start")
    get = 'cat "$(vine-env get vine:known --wait 40)"'
    assert job.step("n4", get).out == "new"


def test_outside_of_a_job_it_says_so(vine: Cluster) -> None:
    for words in (["get", "/etc/hostname"], ["put", "/etc/hostname", "x"]):
        ran = vine.run("n1", "vine-env", *words, user="vine1", check=False)
        assert ran.code != 0
        assert "is in no step of a Slurm job on this node" in ran.err


@pytest.mark.parametrize("mode", ["755", "111"])
def test_a_title_makes_nobody_slurmstepd(vine: Cluster, mode: str) -> None:
    """root owns what /proc shows of a process whose program its user cannot read."""
    script = (
        "s=$(mktemp -d) && cp /bin/bash $s/sh && chmod " + mode + " $s/sh && "
        "(exec -a 'slurmstepd: [4242.0]' $s/sh -c "
        "'vine-env get /etc/hostname; echo code $?'); rm -rf $s"
    )
    ran = vine.run("n1", "bash", "-c", script, user="vine1", check=False)
    assert "is in no step of a Slurm job on this node" in ran.err
    assert "code 0" not in ran.out
    assert "4242" not in [row["job"] for row in vine.status("n1")["jobs"]]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("get vine:", "1 to 1024 bytes"),
        ("get 'vine:a#b'", "no '#'"),
        ("put /etc/hostname 'a#b'", "no '#'"),
        ("put /nowhere/at/all x", "cannot find '/nowhere/at/all'"),
        ("put /etc/shadow x", "Permission denied"),
        ("get /etc/shadow", "Permission denied"),
        ("put /dev/null x", "neither a directory nor a regular file"),
        ("get /pfs/../etc/hostname", "'..'"),
        ("get", "something is missing; the form is: vine-env get SRC"),
        ("get /etc/hostname --wait soon", "--wait takes a number"),
    ],
)
def test_bad_words_are_refused(vine: Cluster, job: JobOf, words: str, why: str) -> None:
    ran = job.step("n1", f"vine-env {words}", check=False)
    assert ran.code != 0 and why in ran.err, ran.err


def test_a_process_that_lost_its_parents_asks_from_its_step(
    vine: Cluster, job: JobOf
) -> None:
    """Only its control group tells then; where there is none it is told so."""
    script = (
        "setsid sh -c '(sleep 0.3; vine-env get /etc/hostname > /tmp/orphan-$$ 2>&1; "
        "mv /tmp/orphan-$$ /tmp/orphan) &' ; while test ! -e /tmp/orphan; do sleep "
        "0.1; done; cat /tmp/orphan; rm -f /tmp/orphan"
    )
    ran = job.step("n1", script)
    assert "/run/vine/job/" in ran.out or "in no step of a Slurm job" in ran.out
