"""minislurm itself: what tests on it rely on, and that nothing of it is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import MINISLURM, Cluster, minislurm, wait_for
from minislurm_lib import kernel, loops
from minislurm_lib.kernel import start_time
from minislurm_lib.layout import Layout

COHERENT_SECONDS = 0.5  # 20 ms on a quiet machine; a test shares it with others

# --- what a cluster offers ----------------------------------------------------------


def test_srun_reaches_every_node(cluster: Cluster) -> None:
    result = cluster.srun("-N8", "hostname")
    assert sorted(result.out.split()) == cluster.nodes


def test_sbatch_runs_as_the_user_and_its_output_is_read(cluster: Cluster) -> None:
    job = cluster.sbatch("id -un; srun -N4 --ntasks-per-node=1 hostname", "-N4")
    assert (job.state, job.code) == ("COMPLETED", 0)
    assert job.out.split()[0] == "vine1"
    assert len(job.out.split()) == 5


def test_a_failing_batch_job_says_so(cluster: Cluster) -> None:
    job = cluster.sbatch("exit 7")
    assert (job.state, job.code) == ("FAILED", 7)


def test_users_groups_and_homes(cluster: Cluster) -> None:
    for user, number in (("vine1", 20001), ("vine2", 20002)):
        out = cluster.srun("-w", "n3", "id", user=user, node="n2").out
        assert f"uid={number}({user}) gid={number}({user})" in out
        assert "20100(vine)" in out
        for home in (f"/home/{user}", f"/pfs/home/{user}"):
            found = cluster.run("n1", "stat", "-c", "%U %G %a", home).out
            assert found.split() == [user, user, "755"]
    cluster.run("n1", "sh", "-c", "echo shared > /home/vine1/note", user="vine1")
    assert cluster.run("n8", "cat", "/home/vine1/note").out == "shared\n"


def test_each_node_has_a_disk_etc_run_and_tmp_of_its_own(cluster: Cluster) -> None:
    for place in ("/local", "/etc", "/run", "/tmp"):
        cluster.run("n1", "touch", f"{place}/only-on-n1")
        seen = cluster.run("n2", "test", "-e", f"{place}/only-on-n1", check=False)
        assert seen.code == 1, place
        if place != "/local":
            assert not os.path.exists(f"{place}/only-on-n1"), "the host was written to"
    kind = cluster.run("n1", "stat", "-f", "-c", "%T", "/local").out
    assert kind.strip() == "ext2/ext3"
    cluster.run("n1", "sh", "-c", "rm /*/only-on-n1")


def test_users_see_no_keys_and_not_behind_the_shared_file_system(
    cluster: Cluster,
) -> None:
    script = "cat /etc/munge/munge.key /etc/vine-env/image.key"
    assert cluster.run("n1", "sh", "-c", script, user="vine1", check=False).out == ""
    inside = cluster.run("n1", "test", "-e", str(cluster.layout.base), check=False)
    assert inside.code == 1


def test_a_background_command_is_waited_for_and_killed(cluster: Cluster) -> None:
    running = cluster.srun_start("-N2", "sh", "-c", "echo started; sleep 60")
    wait_for(lambda: running.out.count("started") == 2, 10, "both tasks")
    assert "mixed" in cluster.node_states().values()
    running.send(signal.SIGTERM)
    assert running.wait(20).code != 0


def measured_mbit(cluster: Cluster, sender: str, receiver: str) -> float:
    server = cluster.popen(receiver, "iperf3", "--server", "--one-off", "--forceflush")
    wait_for(lambda: "listening" in server.out, 10, "iperf3's server")
    report = cluster.run(sender, "iperf3", "-J", "-t", "1", "-O", "0.5", "-c", receiver)
    server.wait(20)
    return json.loads(report.out)["end"]["sum_received"]["bits_per_second"] / 1e6


def test_a_link_carries_its_rate_and_another_after_shaping(cluster: Cluster) -> None:
    assert 300 < measured_mbit(cluster, "n1", "n2") < 410
    cluster.shape("n2", "40mbit")
    assert 25 < measured_mbit(cluster, "n1", "n2") < 44
    assert 25 < measured_mbit(cluster, "n2", "n1") < 44
    cluster.shape("n2", "off")
    assert 300 < measured_mbit(cluster, "n1", "n2") < 410  # n1's own limit


def test_crash_and_boot_keep_the_disk_and_nothing_else(cluster: Cluster) -> None:
    cluster.run("n4", "sh", "-c", "echo kept > /local/kept; sync; touch /run/lost")
    cluster.crash("n4")
    with pytest.raises(AssertionError):
        cluster.run("n1", "ping", "-c1", "-W1", "n4")
    cluster.boot("n4")
    assert cluster.run("n4", "cat", "/local/kept").out == "kept\n"
    assert cluster.run("n4", "test", "-e", "/run/lost", check=False).code == 1
    assert cluster.srun("-w", "n4", "ls", "/pfs/home").out.split() == ["vine1", "vine2"]


def test_a_crash_takes_along_a_loop_device_on_the_nodes_disk(cluster: Cluster) -> None:
    script = (
        "truncate -s 8M /local/i; mkfs.ext4 -q /local/i; losetup -f --show /local/i"
    )
    device = cluster.sh("n5", script).strip()
    backing = Path("/sys/block") / Path(device).name / "loop/backing_file"
    assert backing.read_text().strip().endswith("/i")
    cluster.crash("n5")
    assert not backing.exists() or not backing.read_text().strip().endswith("/i")


# --- the shared file system ---------------------------------------------------------


@pytest.fixture
def folder(cluster: Cluster) -> Iterator[str]:
    path = f"/pfs/home/vine1/t{time.monotonic_ns()}"
    cluster.run("n1", "mkdir", path, user="vine1")
    yield path
    cluster.pfs_set(mds_ops=0, root_squash=0)
    cluster.run("n1", "rm", "-rf", path)


def as_vine1(cluster: Cluster, node: str, script: str, check: bool = True) -> str:
    return cluster.run(node, "bash", "-c", script, user="vine1", check=check).out


def test_pfs_counts_operations_and_bytes_and_caches(
    cluster: Cluster, folder: str
) -> None:
    as_vine1(cluster, "n1", f"head -c 3000000 /dev/urandom > {folder}/f")
    cluster.pfs_drop_caches()
    cluster.pfs_zero()
    cluster.run("n2", "cksum", f"{folder}/f")
    first = cluster.pfs_counters()
    assert first["bytes_read"] == 3000000
    assert first["bytes_written"] == 0
    assert 3 <= first["meta_ops"] <= 8  # look up five components, open
    cluster.run("n2", "cksum", f"{folder}/f")
    second = cluster.pfs_counters()
    assert second["bytes_read"] == 3000000
    assert second["meta_ops"] - first["meta_ops"] <= 2


def test_pfs_drop_leaves_nothing_of_what_was_replaced_since(
    cluster: Cluster, folder: str
) -> None:
    def listed() -> int:
        cluster.pfs_drop_caches()
        cluster.pfs_zero()
        cluster.run("n2", "ls", "-l", folder)
        return int(cluster.pfs_counters()["meta_ops"])

    as_vine1(cluster, "n1", f"cd {folder}; touch $(seq 100)")
    first = listed()
    as_vine1(cluster, "n1", f"cd {folder}; mkdir new; cd new; touch $(seq 100)")
    as_vine1(cluster, "n1", f"cd {folder}; mv new/* .; rmdir new")
    assert 100 <= first <= 120
    assert listed() == first


def test_pfs_metadata_operations_queue_at_one_server(
    cluster: Cluster, folder: str
) -> None:
    as_vine1(cluster, "n1", f"cd {folder}; touch $(seq 200)")
    cluster.pfs_drop_caches()
    cluster.pfs_set(mds_ops=200)
    start = time.monotonic()
    both = [cluster.popen(node, "ls", "-l", folder) for node in ("n2", "n3")]
    for one in both:
        one.wait(30).checked()
    assert 1.9 < time.monotonic() - start < 6  # 2 nodes x 200 look-ups


def test_pfs_data_has_a_limit_a_client_and_one_for_all(
    cluster: Cluster, folder: str
) -> None:
    def seconds(nodes: list[str]) -> float:
        cluster.pfs_drop_caches()
        start = time.monotonic()
        reads = [cluster.popen(node, "cat", f"{folder}/f") for node in nodes]
        for one in reads:
            one.wait(30).checked()
        return time.monotonic() - start

    as_vine1(cluster, "n1", f"head -c 20000000 /dev/zero > {folder}/f")
    cluster.pfs_set(client_mbs=20)
    assert 0.9 < seconds(["n2"]) < 2.5
    assert 0.9 < seconds(["n2", "n3"]) < 2.5
    cluster.pfs_set(client_mbs=0, bw_mbs=20)
    assert 1.9 < seconds(["n2", "n3"]) < 4.5


def test_pfs_refuses_a_setting_it_does_not_know(cluster: Cluster) -> None:
    done = minislurm(cluster.layout.base, "pfs", "set", "speed=3")
    assert done.returncode == 1
    assert "bad setting 'speed=3'" in done.stderr


CHANGES = [
    ("a new file", "echo x > new", "cat new", "x\n"),
    ("a longer file", "echo more >> file", "cat file", "one\nmore\n"),
    ("other content of the same size", "echo two > file", "cat file", "two\n"),
    ("a removed name", "rm file", "test -e file || echo gone", "gone\n"),
    ("a replaced name", "echo two > t; mv t file", "cat file", "two\n"),
    ("a renamed folder", "mv sub sub2", "ls sub2; ls sub 2>&1 | wc -l", "a\n1\n"),
    ("a listing", "touch sub/b; rm sub/a", "ls sub", "b\n"),
    ("a mode", "chmod 4711 file", "stat -c %a file", "4711\n"),
    ("times", "touch -d @7.5 file", "stat -c %.2Y file", "7.50\n"),
    ("a size", "truncate -s 2 file", "cat file; stat -c :%s file", "on:2\n"),
    ("another hard link", "ln file l", "stat -c %h file", "2\n"),
    ("a link's target", "ln -sfn sub link", "readlink link", "sub\n"),
    ("a file for a folder", "rm -r sub; echo f > sub", "cat sub", "f\n"),
]


@pytest.mark.parametrize(
    ("change", "look", "expected"),
    [c[1:] for c in CHANGES],
    ids=[c[0] for c in CHANGES],
)
def test_a_change_is_seen_by_another_node_that_has_it_cached(
    cluster: Cluster, folder: str, change: str, look: str, expected: str
) -> None:
    prepare = "echo one > file; mkdir sub; touch sub/a; ln -s file link"
    as_vine1(cluster, "n1", f"cd {folder}; {prepare}")
    fill = "cat file link; ls -lR . > /dev/null; stat -c %a file sub sub/a; test -e new"
    as_vine1(cluster, "n2", f"cd {folder}; {fill}; {fill}", check=False)
    as_vine1(cluster, "n1", f"cd {folder}; {change}")
    wait_for(
        lambda: as_vine1(cluster, "n2", f"cd {folder}; {look}", False) == expected,
        COHERENT_SECONDS,
        f"'{look}' to say {expected!r}",
    )


def test_a_change_is_seen_through_an_open_file(cluster: Cluster, folder: str) -> None:
    as_vine1(cluster, "n1", f"echo 1 > {folder}/f")
    script = f"exec 3< {folder}/f; while sleep 0.02; do head -c1 /proc/self/fd/3; done"
    reader = cluster.popen("n2", "bash", "-c", script)
    wait_for(lambda: reader.out.endswith("1"), 5, "the first content")
    as_vine1(cluster, "n3", f"printf 2 | dd of={folder}/f conv=notrunc status=none")
    wait_for(lambda: reader.out.endswith("2"), 2, "the second content")
    reader.kill()


def test_odd_files_arrive_on_another_node(cluster: Cluster, folder: str) -> None:
    script = (
        f"cd {folder}; touch $'a\\nb' $'\\xff\\xfe' ' blank ' \"it's\" -- -rf;"
        "ln -s nowhere dangling; ln -s loop loop; truncate -s 3G sparse; mkfifo fifo;"
        "echo h > h1; ln h1 h2; mkdir -m 2770 setgid; touch -d @1.123456789 h1"
    )
    look = f"cd {folder}; find . -printf '%p|%y|%s|%i|%n|%m|%l|%T@|%U\\n' | sort"
    as_vine1(cluster, "n1", script)
    here = cluster.run("n1", "bash", "-c", look).out
    there = cluster.run("n2", "bash", "-c", look).out
    assert here == there
    assert "./h2|f|2|" in here
    assert "|1.1234567890|20001" in here
    blocks = cluster.run("n2", "stat", "-c", "%b", f"{folder}/sparse").out
    assert blocks == "0\n"


def test_a_deleted_file_stays_readable_where_it_is_open(
    cluster: Cluster, folder: str
) -> None:
    script = (
        f"cd {folder}; echo text > f; exec 3<f; rm f; cat <&3; stat -L -c %h /dev/fd/3"
    )
    assert as_vine1(cluster, "n1", script) == "text\n0\n"


# --- root squash --------------------------------------------------------------------


@pytest.fixture
def closed(cluster: Cluster, folder: str) -> str:
    """A file in a directory of mode 0700, under root_squash."""
    script = f"cd {folder}; mkdir -m 700 x; mkdir x/sub; echo secret > x/sub/file"
    as_vine1(cluster, "n1", script)
    cluster.run("n1", "cat", f"{folder}/x/sub/file")  # root has it cached
    cluster.pfs_set(root_squash=1)
    return f"{folder}/x"


def test_squashed_root_is_kept_out_of_a_closed_directory(
    cluster: Cluster, closed: str
) -> None:
    commands = (
        ["cat", f"{closed}/sub/file"],
        ["stat", f"{closed}/sub/file"],
        ["ls", f"{closed}/sub"],
        ["ls", closed],
        ["touch", f"{closed}/new"],
        ["rm", f"{closed}/sub/file"],
    )
    for node in ("n1", "n2"):
        for command in commands:
            # Its owner has just walked there: the kernel knows the way.
            assert as_vine1(cluster, node, f"cat {closed}/sub/file") == "secret\n"
            refused = cluster.run(node, *command, check=False)
            assert refused.code != 0, command
            assert "Permission denied" in refused.err


def test_squashed_root_is_nobody_elsewhere(cluster: Cluster, closed: str) -> None:
    folder = closed.rpartition("/")[0]
    as_vine1(cluster, "n1", f"cd {folder}; umask 077; echo s > own; echo o > open")
    as_vine1(cluster, "n1", f"chmod 644 {folder}/open")
    assert cluster.run("n2", "cat", f"{folder}/open").out == "o\n"
    for command in ("cat own", "touch new", "chmod 777 open", "chown root open"):
        done = cluster.run("n2", "sh", "-c", f"cd {folder}; {command}", check=False)
        assert done.code != 0, command
    mine = cluster.sh("n2", "f=/pfs/by-root.$$; echo > $f; stat -c %u $f; rm $f")
    assert mine == "65534\n"


def test_squash_leaves_the_others_alone(cluster: Cluster, closed: str) -> None:
    assert as_vine1(cluster, "n2", f"cat {closed}/sub/file") == "secret\n"
    other = cluster.run("n2", "cat", f"{closed}/sub/file", user="vine2", check=False)
    assert "Permission denied" in other.err
    cluster.pfs_set(root_squash=0)
    assert cluster.run("n2", "cat", f"{closed}/sub/file").out == "secret\n"


AS_FSUID = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
os.setgroups([20001])
libc.setfsgid(20001)
libc.setfsuid(20001)
where = os.fsencode(sys.argv[1])
print(open(where + b"/sub/file").read().strip())
assert libc.unshare(0x20000) == 0  # a mount namespace, as a task has
assert libc.mount(b"", b"/", b"", 1 << 18 | 16384, None) == 0
assert libc.mount(b"/usr", where + b"/sub", b"", 4096, None) == 0, ctypes.get_errno()
print(b"bin" in os.listdir(where + b"/sub"))
sys.stdout.flush()
sys.stdin.read()
print(b"bin" in os.listdir(where + b"/sub"))
"""


def test_root_with_the_users_fsuid_walks_and_mounts_there(
    cluster: Cluster, closed: str
) -> None:
    words = ["python3", "-c", AS_FSUID, closed]
    argv = [str(MINISLURM), "exec", "n2", *words]
    process = subprocess.Popen(
        argv,
        env={**os.environ, "MINISLURM_DIR": str(cluster.layout.base)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    lines = [process.stdout.readline(), process.stdout.readline()]
    # Neither a refused root nor another node's change may undo the mount.
    cluster.run("n2", "ls", f"{closed}/sub", check=False)
    as_vine1(cluster, "n1", f"touch {closed}/sub/later {closed}/new")
    cluster.run("n2", "stat", f"{closed}/sub/file", check=False)
    as_vine1(cluster, "n2", f"ls {closed}/sub")
    lines.append(process.communicate("", timeout=20)[0])
    assert lines == ["secret\n", "True\n", "True\n"]


# --- up and down --------------------------------------------------------------------


@pytest.fixture
def base(able: None, tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "mini"
    minislurm(tmp_path / "mini", "down")


def processes_of(layout: Layout) -> set[tuple[int, int | None]]:
    """Everything that runs in the cluster's nodes: pids with their start times."""
    spaces = set()
    for process in layout.recorded().values():
        if process.alive():
            spaces.add(os.readlink(f"/proc/{process.pid}/ns/pid"))
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            inside = os.readlink(entry / "ns/pid") in spaces
        except OSError:
            continue
        if inside:
            found.add((int(entry.name), start_time(int(entry.name))))
    return found


def traces(base: Path) -> list[str]:
    """What the machine knows of a cluster in `base`."""
    found = []
    loops = subprocess.run(["losetup", "-l", "-O", "NAME,BACK-FILE"], **TEXT).stdout
    found += [f"loop device {line}" for line in loops.splitlines() if str(base) in line]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [f"mount {line}" for line in mounts if str(base) in line]
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if b"MINISLURM_DIR=%s\0" % os.fsencode(base) in environment:
            found.append(f"process {entry.name}: {(entry / 'cmdline').read_text()}")
    if base.exists():
        found.append(f"directory {base}")
    return found


TEXT = {"capture_output": True, "text": True}


def test_down_leaves_nothing(base: Path) -> None:
    done = minislurm(base, "up", "--nodes", "3", "--no-vine")
    assert done.returncode == 0, done.stderr
    everything = processes_of(Layout(base))
    assert len(everything) > 3 * 4  # first process, munged, slurmd, pfs
    assert len([trace for trace in traces(base) if "loop device" in trace]) == 3
    done = minislurm(base, "down")
    assert done.returncode == 0, done.stderr
    alive = [pid for pid, start in everything if start_time(pid) == start]
    states = [Path(f"/proc/{pid}/stat").read_text().split()[2] for pid in alive]
    assert set(states) <= {"Z"}  # dead; whoever adopted it has not looked yet
    assert traces(base) == []


def test_a_second_up_is_refused_and_the_first_unharmed(base: Path) -> None:
    assert minislurm(base, "up", "--nodes", "1", "--no-vine").returncode == 0
    done = minislurm(base, "up", "--nodes", "1", "--no-vine")
    assert done.returncode == 1
    assert "there is a cluster" in done.stderr
    assert minislurm(base, "exec", "n1", "srun", "hostname").stdout == "n1\n"


def test_two_clusters_do_not_see_each_other(base: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    try:
        for one in (base, other):
            assert minislurm(one, "up", "--nodes", "2", "--no-vine").returncode == 0
        minislurm(base, "exec", "n1", "touch", "/local/x", "/pfs/x")
        for place in ("/local/x", "/pfs/x"):
            done = minislurm(other, "exec", "n1", "test", "-e", place)
            assert done.returncode == 1
        assert minislurm(base, "down").returncode == 0
        done = minislurm(other, "as", "vine1", "n1", "srun", "-N2", "hostname")
        assert sorted(done.stdout.split()) == ["n1", "n2"]
    finally:
        minislurm(other, "down")


# Something that `up` makes on its way, from its first step to its last but one.
MOMENTS = ["minislurm.json", "etc/slurm", "nodes/n1/init.json", "nodes/n1/log/munge/*"]


def interrupt_up(base: Path, moment: str, number: int) -> int:
    """Signal an `up` in that moment; a quicker one does not count. Its status."""
    for _ in range(10):
        status, words = interrupt_once(base, moment, number)
        if "nodes are up" not in words:
            break
        assert minislurm(base, "down").returncode == 0
    print(words)
    return status


def interrupt_once(base: Path, moment: str, number: int) -> tuple[int, str]:
    log = base.parent / "up.log"
    with log.open("w") as words:
        process = subprocess.Popen(
            [str(MINISLURM), "up", "--nodes", "3", "--no-vine"],
            env={**os.environ, "MINISLURM_DIR": str(base)},
            stderr=words,
        )
    wait_for(lambda: any(base.glob(moment)), 30, moment)
    process.send_signal(number)
    process.wait(60)
    return process.returncode, log.read_text()


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interrupted_up_cleans_up_itself(base: Path, moment: str) -> None:
    assert interrupt_up(base, moment, signal.SIGINT) == 130
    assert traces(base) == []


def test_a_half_built_node_owns_nothing_of_the_host() -> None:
    """Else taking it down would wait for, and detach, the disks of other clusters."""
    build = "mount -t tmpfs t /run; mkdir /run/home; mount --bind / /run/home"
    with subprocess.Popen(
        ["unshare", "-m", "sh", "-c", f"{build}; echo built; exec sleep 60"],
        stdout=subprocess.PIPE,
    ) as node:
        assert node.stdout is not None and node.stdout.readline() == b"built\n"
        mounted = Path(f"/proc/{node.pid}/mountinfo").read_text()
        owned = loops.file_systems(kernel.Process(node.pid, start_time(node.pid)))
        node.kill()
    root = os.stat("/").st_dev
    assert f"{os.major(root)}:{os.minor(root)} / /run/home" in mounted
    assert f"{os.major(root)}:{os.minor(root)}" not in owned
    assert len(owned) == 1  # the tmpfs


@pytest.mark.parametrize("moment", MOMENTS)
def test_down_removes_what_a_killed_up_has_left(base: Path, moment: str) -> None:
    interrupt_up(base, moment, signal.SIGKILL)
    assert base.exists()
    done = minislurm(base, "down")
    assert done.returncode == 0, done.stderr
    assert traces(base) == []
    assert minislurm(base, "up", "--nodes", "1", "--no-vine").returncode == 0


def test_down_kills_no_process_that_got_a_recorded_pid(base: Path) -> None:
    assert minislurm(base, "up", "--nodes", "1", "--no-vine").returncode == 0
    with subprocess.Popen(["sleep", "60"]) as bystander:
        record = {"pid": bystander.pid, "start": start_time(bystander.pid) - 1}
        (base / "nodes/n9").mkdir()
        (base / "nodes/n9/init.json").write_text(json.dumps(record))
        assert minislurm(base, "down").returncode == 0
        assert bystander.poll() is None
        bystander.kill()


def test_a_foreign_directory_is_left_alone(base: Path) -> None:
    base.mkdir()
    (base / "thesis").write_text("years of work")
    assert minislurm(base, "up", "--nodes", "1").returncode == 1
    minislurm(base, "down")
    assert (base / "thesis").read_text() == "years of work"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["exec", "n1", "true"], "no cluster in"),
        (["up", "--nodes", "0"], "bad number of nodes"),
        (["up", "--rate", "fast"], "bad rate 'fast'"),
        (["up", "--pfs", "lat_us=-1"], "bad setting 'lat_us=-1'"),
    ],
)
def test_mistakes_are_told(base: Path, words: list[str], complaint: str) -> None:
    done = minislurm(base, *words)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
