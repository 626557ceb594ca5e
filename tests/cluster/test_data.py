"""--vine-data: files and directories of data, beside environments and without them."""

from __future__ import annotations

import hashlib
import random
import shlex

import pytest
from cluster import Cluster
from environments import make_environment, make_image, moved, totals

MIB = 1 << 20
HOME = "/pfs/home/vine1"
#: A file of this size is some hundred chunks.
SIZE = 24 * MIB


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def make_file(vine: Cluster, path: str, data: bytes, user: str = "vine1") -> str:
    """A file on /pfs as its owner makes it. Returns its SHA-256."""
    vine.run("n1", "mkdir", "-p", path.rpartition("/")[0], user=user)
    inside = vine.root("n1") / "tmp" / "made"
    inside.write_bytes(data)
    vine.run("n1", "cp", "/tmp/made", path, user=user)
    inside.unlink()
    return hashlib.sha256(data).hexdigest()


def look(path: str) -> str:
    """A script: the file's SHA-256, and whether it is a mount of this task's own."""
    name = shlex.quote(path)
    mounted = f"findmnt -n -o OPTIONS --mountpoint {name} || echo UNMOUNTED"
    return f"sha256sum < {name}; {mounted}"


def warning(text: str) -> str:
    (line,) = [x for x in text.splitlines() if "vine-env: warning: " in x]
    return line


def test_a_file_is_local_at_its_own_path_on_all_nodes(vine: Cluster) -> None:
    path = f"{HOME}/data/own.h5"
    data = content(SIZE)
    digest = make_file(vine, path, data)
    vine.pfs_drop_caches()
    vine.pfs_zero()
    before = totals(vine)
    words = [f"-N{len(vine.nodes)}", f"--vine-data={path}"]
    ran = vine.srun(*words, "bash", "-c", look(path))
    assert ran.out.count(digest) == len(vine.nodes)
    options = [x for x in ran.out.splitlines() if digest not in x]
    assert len(options) == len(vine.nodes)
    assert all({"ro", "nosuid", "nodev"} <= set(x.split(",")) for x in options)
    assert "warning" not in ran.err
    assert SIZE <= vine.pfs_counters()["bytes_read"] <= 1.02 * SIZE
    delta = moved(before, totals(vine))
    assert delta["bytes_built"] == SIZE  # the object is the file's bytes
    others = (len(vine.nodes) - 1) * SIZE
    assert abs(delta["bytes_peer"] - others) <= 0.02 * others
    # Private to the task, and nobody writes to it.
    assert "UNMOUNTED" in vine.sh("n1", look(path))
    refused = vine.srun("-N1", *words[1:], "sh", "-c", f"echo >> {path}", check=False)
    assert refused.code != 0 and "cannot create" in refused.err
    # Warm: its metadata names it.
    vine.pfs_drop_caches()
    read = vine.pfs_counters()["bytes_read"]
    again = vine.srun(*words, "bash", "-c", look(path))
    assert again.out.count(digest) == len(vine.nodes)
    assert vine.pfs_counters()["bytes_read"] == read
    assert moved(before, totals(vine)) == delta


def test_a_destination(vine: Cluster) -> None:
    path, there = f"{HOME}/data/a.bin", "/home/vine1/there.bin"
    digest = make_file(vine, path, content(3 * MIB, 2))
    option = f"--vine-data={path}:{there}"
    missing = vine.srun("-N1", option, "true", check=False)
    assert f"mount point '{there}' does not exist" in warning(missing.err)
    assert "create an empty file there" in missing.err
    for node in vine.nodes:
        vine.run(node, "touch", there, user="vine1")
    ran = vine.srun("-N2", option, "bash", "-c", look(there) + f"; {look(path)}")
    assert ran.out.count(digest) == 4
    assert ran.out.count("UNMOUNTED") == 2  # the path itself is as it was
    # Below the private directory nothing need exist.
    private = "/run/vine/env/deep/a.bin"
    ran = vine.srun("-N1", f"--vine-data={path}:{private}", "sha256sum", private)
    assert digest in ran.out
    # Not onto a directory, nor onto what is the system's.
    wrong = vine.srun("-N1", f"--vine-data={path}:/home/vine1", "true")
    assert "is no regular file" in warning(wrong.err)
    wrong = vine.srun("-N1", f"--vine-data={path}:/etc/passwd", "cat", "/etc/passwd")
    assert "belongs to the system" in warning(wrong.err)
    assert "vine1" in wrong.out


def test_a_directory_goes_as_an_environment_does(vine: Cluster) -> None:
    env = make_environment(vine)
    words = ["-N2", f"--vine-data={env.path}"]
    ran = vine.srun(
        *words,
        "bash",
        "-c",
        f"{env.script}; findmnt -n -o FSTYPE --mountpoint {env.path}; echo =$PATH"
        "=$VINE_DATA=$VINE_DATA_STATE=$VINE_ENV=$VIRTUAL_ENV",
    )
    assert ran.out.count(f"first {env.path}/") == 2
    assert ran.out.count("squashfs") == 2
    # It is data: it is not activated.
    assert ran.out.count(f"={env.path}=local==\n") == 2
    assert f"={env.path}/bin" not in ran.out
    before = totals(vine)
    vine.srun("-N2", f"--vine-env={env.path}", env.script)
    assert moved(before, totals(vine))["bytes_built"] == 0  # one image for both


def test_environment_and_data_in_one_job(vine: Cluster) -> None:
    env = make_environment(vine)
    image, _ = make_image(vine, env)
    one, two = f"{env.path}/one.csv", f"{HOME}/data/two.tar"
    make_file(vine, two, b"not a tar\n")
    make_file(vine, one, b"within the environment\n")
    option = f"--vine-data={two},{image}:/run/vine/env/as-data"
    script = (
        f"{env.script}; cat {two}; head -c 4 /run/vine/env/as-data; echo;"
        "echo $VINE_ENV $VINE_ENV_STATE $VINE_DATA $VINE_DATA_STATE $VIRTUAL_ENV"
    )
    words = ["-N2", f"--vine-env={image}", option, "bash", "-c", script]
    ran = vine.srun(*words)
    assert ran.out.count(f"first {env.path}/") == 2
    assert ran.out.count("not a tar") == 2  # a file, whatever its name
    assert ran.out.count("hsqs") == 2  # an image as data is the file
    assert ran.out.count(f"{env.path} local {two} local {env.path}\n") == 2
    assert "warning" not in ran.err
    # A file on top of the environment that holds it.
    ran = vine.srun("-N1", f"--vine-env={env.path}", f"--vine-data={one}", "cat", one)
    assert ran.out == "within the environment\n"


def test_what_cannot_be_read(vine: Cluster) -> None:
    path = f"{HOME}/data/locked.bin"
    make_file(vine, path, content(1 * MIB, 3))
    vine.run("n1", "chmod", "000", path, user="vine1")
    ran = vine.srun("-N2", f"--vine-data={path}", "echo", "ran")
    assert ran.out.count("ran") == 2
    assert "Permission denied" in warning(ran.err)
    assert f"running from '{path}' instead" in ran.err
    failed = vine.srun(
        "-N1", f"--vine-data={path}", "--vine-fallback=fail", "true", check=False
    )
    assert failed.code == 1
    assert "Permission denied" in failed.err
    # What is absent stops srun; what goes in the queue falls back.
    gone = vine.srun("-N1", f"--vine-data={HOME}/none.bin", "true", check=False)
    assert gone.code == 1
    assert "does not exist here" in gone.err
    late = f"{HOME}/data/late.bin"
    make_file(vine, late, b"x")
    script = f"rm {late}; srun --vine-data={late} echo ran"
    job = vine.sbatch(script, "-N1")
    assert "does not exist here" in job.out
    pipe = f"{HOME}/data/pipe"
    vine.run("n1", "mkfifo", pipe, user="vine1")
    ran = vine.srun("-N1", f"--vine-data={pipe}", "echo", "ran")
    assert "neither a directory nor a regular file" in warning(ran.err)
    vine.run("n1", "rm", pipe, user="vine1")


def test_a_private_file_stays_private(vine: Cluster) -> None:
    """While vine1's job holds it, vine2 tries every way in on the same node."""
    parent = f"{HOME}/private-data"
    path = f"{parent}/secret.txt"
    secret = b"not-for-vine2\n"
    make_file(vine, path, secret)
    vine.sh("n1", f"chmod 700 {parent}; chmod 600 {path}", user="vine1")
    vine.pfs_set(root_squash=1)
    vine.pfs_drop_caches()
    go = f"{HOME}/go-data"
    vine.sh("n1", f"rm -f {go}", user="vine1")
    wait = f"cat {path}; until [ -e {go} ]; do sleep 0.1; done"
    words = ["-N1", "-w", "n1", "--mem=100", f"--vine-data={path}"]
    running = vine.srun_start(*words, "bash", "-c", wait)
    vine.wait_for(lambda: secret.decode() in running.out, 60, "vine1's task")
    digest = vine.status("n1")["objects"][0]["digest"]
    tries = [
        f"cat /local/vine/objects/{digest}/image",
        f"cat /run/vine/mnt/{digest}",
        "ls /run/vine/mnt",
        f"vine-env stage --data {path}",
        f"vine-env stage --data /run/vine/mnt/{digest}",
        f"vine-env stage --data /local/vine/objects/{digest}/image",
        "for f in /proc/[0-9]*/fd/* /proc/[0-9]*/root" + path + "; do cat $f; done",
    ]
    for attempt in tries:
        result = vine.run(
            "n1", "timeout", "20", "bash", "-c", attempt, user="vine2", check=False
        )
        assert secret.decode() not in result.out + result.err, attempt
        assert result.code != 0, str(result)
    # The same by a job of vine2's own, and by a file that looks the same.
    job = vine.srun(*words[:-1], f"--vine-data={path}", "cat", path, user="vine2",
                    check=False)  # fmt: skip
    assert job.code != 0
    assert secret.decode() not in job.out
    forged = "/pfs/home/vine2/secret.txt"
    make_file(vine, forged, b"for-everybody\n", user="vine2")
    vine.sh("n1", f"chmod 600 {forged}", user="vine2")
    job = vine.srun(*words[:-1], f"--vine-data={forged}", "cat", forged, user="vine2")
    assert job.out == "for-everybody\n"
    vine.sh("n1", f"touch {go}", user="vine1")
    running.wait(30).checked()


def test_data_is_never_mounted_as_an_image(vine: Cluster) -> None:
    """The same bytes, given as data first: trusted as data, and as nothing else."""
    env = make_environment(vine)
    image = f"{env.path}-own.sqsh"
    words = ["mksquashfs", env.path, image, "-comp", "zstd", "-quiet", "-no-progress"]
    vine.run("n1", *words, user="vine1")
    vine.srun("-N1", "-w", "n1", f"--vine-data={image}", "true")
    option = f"--vine-env={image}:{env.path}"
    script = f"findmnt -n -o FSTYPE --mountpoint {env.path}"
    ran = vine.srun("-N1", "-w", "n1", option, "bash", "-c", script)
    assert ran.out == "fuse.squashfuse\n"


def test_a_file_that_changes(vine: Cluster) -> None:
    path = f"{HOME}/data/grows.bin"
    make_file(vine, path, content(2 * MIB, 4))
    option = f"--vine-data={path}"
    # It grows all the while: no moment of it can be had, so the job runs in place.
    vine.sh("n1", f"rm -f {HOME}/stop", user="vine1")
    grow = f"while [ ! -e {HOME}/stop ]; do echo line >> {path}; done"
    growing = vine.popen("n2", "bash", "-c", grow, user="vine1")
    ran = vine.srun("-N1", "-w", "n1", option, "echo", "ran")
    assert ran.out == "ran\n"
    assert "changed while it was read" in warning(ran.err)
    vine.sh("n1", f"touch {HOME}/stop", user="vine1")
    growing.wait(20)
    # The next job gets what is there now; so does the one after another change.
    for data in (content(2 * MIB, 5), content(2 * MIB, 6)):
        digest = make_file(vine, path, data)
        ran = vine.srun("-N2", option, "sha256sum", path)
        assert ran.out.count(digest) == 2
        assert "warning" not in ran.err


def test_a_running_job_keeps_its_version(vine: Cluster) -> None:
    path, go = f"{HOME}/data/kept.bin", f"{HOME}/go-kept"
    first = make_file(vine, path, b"first\n" * 1000)
    vine.sh("n1", f"rm -f {go}", user="vine1")
    script = f"""
        srun sha256sum {path}
        until [ -e {go} ]; do sleep 0.1; done
        srun sha256sum {path}
    """
    job = vine.submit(script, "-N2", f"--vine-data={path}")
    output = vine.layout.home / "vine1" / f"job-{job}.out"
    vine.wait_for(
        lambda: output.exists() and output.read_text().count(first) == 2, 60, "a step"
    )
    second = make_file(vine, path, b"second\n" * 1000)
    vine.sh("n1", f"touch {go}", user="vine1")
    ended = vine.wait_job(job)
    assert ended.out.count(first) == 4
    assert second not in ended.out


def test_a_name_that_goes_takes_the_mount_with_it(vine: Cluster) -> None:
    """As the manual says: a file that is replaced by a rename shows through at its own
    path, and not below the private directory."""
    path, go = f"{HOME}/data/replaced.bin", f"{HOME}/go-replaced"
    private = "/run/vine/env/replaced.bin"
    script = (
        "sha256sum $0; echo seen; until [ -e $1 ]; do sleep 0.1; done; sha256sum $0"
    )
    for at in (path, private):
        first = make_file(vine, path, b"first\n" * 1000)
        second = make_file(vine, f"{path}.new", b"second\n" * 1000)
        vine.sh("n1", f"rm -f {go}", user="vine1")
        words = ["-N1", "-w", "n1", f"--vine-data={path}:{at}"]
        running = vine.srun_start(*words, "bash", "-c", script, at, go)
        vine.wait_for(lambda r=running: "seen" in r.out, 60, "the task")
        vine.sh("n1", f"mv {path}.new {path}; touch {go}", user="vine1")
        said = running.wait(30).checked().out
        assert said.startswith(first)
        later = second if at == path else first
        assert said.splitlines()[-1].startswith(later)


def test_with_a_lazy_start_data_is_whole(vine: Cluster) -> None:
    """Only the environment starts before it is there."""
    env = make_environment(vine, ballast_bytes=20 * MIB)
    path = f"{HOME}/data/lazy.bin"
    digest = make_file(vine, path, content(SIZE, 10))
    vine.pfs_drop_caches()
    words = [f"-N{len(vine.nodes)}", "--vine-start=lazy", f"--vine-env={env.path}"]
    ran = vine.srun(
        *words, f"--vine-data={path}", "bash", "-c", f"{env.script}; {look(path)}"
    )
    assert ran.out.count(f"first {env.path}/") == len(vine.nodes)
    assert ran.out.count(digest) == len(vine.nodes)
    assert "UNMOUNTED" not in ran.out
    assert "warning" not in ran.err
    other = f"{HOME}/data/lazy-alone.bin"
    digest = make_file(vine, other, content(SIZE, 11))
    words = [f"-N{len(vine.nodes)}", "--vine-start=lazy", f"--vine-data={other}"]
    ran = vine.srun(*words, "sha256sum", other)
    assert ran.out.count(digest) == len(vine.nodes)
    assert "warning" not in ran.err


def test_what_a_job_holds_is_not_evicted(vine: Cluster) -> None:
    path, go = f"{HOME}/data/held.bin", f"{HOME}/go-held"
    digest = make_file(vine, path, content(1 * MIB, 12))
    vine.evict_all()
    vine.sh("n1", f"rm -f {go}", user="vine1")
    script = f"""
        echo begun
        until [ -e {go} ]; do sleep 0.1; done
        srun sha256sum {path}
    """
    job = vine.submit(script, "-N1", "-w", "n1", f"--vine-data={path}")
    # From the prolog on: no step has asked yet.
    vine.wait_for(
        lambda: [o for o in vine.status("n1")["objects"] if o["leases"] == 1], 20, "it"
    )
    refused = vine.run("n1", "vine-env", "evict", "--all")
    assert "kept" in refused.out
    (held,) = vine.status("n1")["jobs"]
    assert held["path"] == f"data:{path}"
    vine.sh("n1", f"touch {go}", user="vine1")
    assert digest in vine.wait_job(job).out
    vine.wait_for(lambda: not vine.status("n1")["jobs"], 20, "the lease's end")


def test_too_large_for_the_store(vine: Cluster) -> None:
    path = f"{HOME}/data/large.bin"
    room = vine.status("n1")["node"]["store"]["max"]
    vine.sh("n1", f"truncate -s {room + MIB} {path}", user="vine1")
    vine.pfs_zero()
    ran = vine.srun("-N1", "-w", "n1", f"--vine-data={path}", "echo", "ran")
    assert ran.out == "ran\n"
    line = warning(ran.err)
    assert "short for" in line and "raise cache_max or evict" in line
    assert vine.pfs_counters()["bytes_read"] == 0  # told before the first byte
    vine.run("n1", "rm", path, user="vine1")


def test_too_large_together(vine: Cluster) -> None:
    """Each would fit; all are refused before a byte of any is read."""
    paths = [f"{HOME}/data/half{n}.bin" for n in range(2)]
    room = vine.status("n1")["node"]["store"]["max"]
    for path in paths:
        vine.sh("n1", f"truncate -s {room * 6 // 10} {path}", user="vine1")
    words = ["-N1", "-w", "n1", f"--vine-data={','.join(paths)}"]
    vine.pfs_zero()
    ran = vine.srun(*words, "echo", "ran")
    assert ran.out == "ran\n"
    line = warning(ran.err)
    assert "the job's 2 sources need" in line and "holds" in line, line
    assert "(and 1 more)" in line
    failed = vine.srun(*words, "--vine-fallback=fail", "true", check=False)
    assert failed.code == 1
    assert "raise cache_max or name less" in failed.err
    assert vine.pfs_counters()["bytes_read"] == 0
    vine.run("n1", "rm", *paths, user="vine1")


@pytest.mark.parametrize(
    "name",
    ["a b", "a,b", "a:b", "a\\b", "%41", "ümläut", "-n", "data:x", "'$x'", "é\\,"],
)
def test_odd_names(vine: Cluster, name: str) -> None:
    path = f"{HOME}/odd data/{name}"
    data = f"in {name}\n".encode()
    make_file(vine, path, data)
    option = path.replace("\\", "\\\\").replace(",", "\\,").replace(":", "\\:")
    script = f"cat {shlex.quote(path)}; {look(path)}"
    ran = vine.srun("-N2", f"--vine-data={option}", "bash", "-c", script)
    assert ran.out.count(data.decode()) == 2
    assert "UNMOUNTED" not in ran.out
    assert "warning" not in ran.err


def test_an_empty_file(vine: Cluster) -> None:
    path = f"{HOME}/data/empty"
    make_file(vine, path, b"")
    ran = vine.srun("-N2", f"--vine-data={path}", "bash", "-c", look(path))
    assert ran.out.count(hashlib.sha256(b"").hexdigest()) == 2
    assert "UNMOUNTED" not in ran.out
    assert "warning" not in ran.err


def test_by_variable_and_in_batch(vine: Cluster) -> None:
    path = f"{HOME}/data/batch.bin"
    digest = make_file(vine, path, content(1 * MIB, 7))
    script = f"""#!/bin/bash
#SBATCH --vine-data={path}
        sha256sum {path}; findmnt --mountpoint {path}
        srun bash -c '{look(path)}; echo state=$VINE_DATA_STATE'
    """
    job = vine.sbatch(script, "-N2")
    assert job.out.count(digest) == 3
    assert job.out.count("state=local") == 2
    assert "UNMOUNTED" not in job.out
    words = ["env", f"VINE_DATA_SPEC={path}", "srun", "-N1"]
    ran = vine.run("n1", *words, "bash", "-c", look(path), user="vine1")
    assert digest in ran.out and "UNMOUNTED" not in ran.out
    job = vine.sbatch(
        f"export VINE_DATA_SPEC={path}\nsrun -N1 bash -c '{look(path)}'", "-N1"
    )
    assert digest in job.out and "UNMOUNTED" not in job.out
    words[1] = "VINE_DATA_SPEC=rel"
    bad = vine.run("n1", *words, "true", user="vine1", check=False)
    assert bad.code == 1
    assert "for example --vine-data=" in bad.err


def test_staged_before_the_job(vine: Cluster) -> None:
    path = f"{HOME}/data/staged.bin"
    digest = make_file(vine, path, content(1 * MIB, 8))
    words = ["vine-env", "stage", "--data", path]
    said = vine.run("n1", *words, user="vine1").out
    assert said.startswith(f"{path}: ")
    assert "staged on all nodes" in vine.run(
        "n1", *words, "--nodes", "all", user="vine1"
    ).out  # fmt: skip
    vine.pfs_zero()
    before = totals(vine)
    ran = vine.srun(f"-N{len(vine.nodes)}", f"--vine-data={path}", "sha256sum", path)
    assert ran.out.count(digest) == len(vine.nodes)
    assert vine.pfs_counters()["bytes_read"] == 0
    assert not any(moved(before, totals(vine)).values())
    # A file that is no environment, without --data.
    wrong = vine.run("n1", "vine-env", "stage", path, user="vine1", check=False)
    assert wrong.code != 0
    assert "neither a directory nor a file whose name" in wrong.err


def test_a_daemon_that_restarts_keeps_it(vine: Cluster) -> None:
    path = f"{HOME}/data/restart.bin"
    digest = make_file(vine, path, content(1 * MIB, 9))
    words = ["-N1", "-w", "n2", f"--vine-data={path}", "sha256sum", path]
    vine.srun(*words)
    vine.daemon("n2", "kill")
    vine.daemon("n2", "start")
    vine.wait_for(lambda: vine.status("n2")["node"]["manager_up"], 30, "the manager")
    vine.pfs_zero()
    ran = vine.srun(*words)
    assert digest in ran.out
    assert "warning" not in ran.err
    assert vine.pfs_counters()["bytes_read"] == 0
    # Evicted, nothing of it is left, the mount's file neither.
    vine.wait_for(lambda: not vine.status("n2")["jobs"], 20, "the job's end")
    vine.run("n2", "vine-env", "evict", "--all")
    assert vine.sh("n2", "ls /run/vine/mnt /local/vine/objects").split() == [
        "/local/vine/objects:",
        "/run/vine/mnt:",
    ]
