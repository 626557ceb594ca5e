"""When things fail: the job runs anyway, says so once, and no node is drained."""

from __future__ import annotations

import re

from cluster import Cluster
from environments import Environment, make_environment, make_image

MIB = 1 << 20
WARNING = re.compile(r"^.*vine-env: warning: .*$", re.MULTILINE)


def warnings(text: str) -> list[str]:
    return WARNING.findall(text)


def runs_from_the_source(
    vine: Cluster, env: Environment, *options: str, reason: str
) -> None:
    """srun works from /pfs with one warning; with --vine-fallback=fail it exits 1."""
    words = [*options, f"--vine-env={env.path}"]
    ran = vine.srun(*words, env.script)
    assert ran.out.count(f"first {env.path}/") == 1
    (line,) = warnings(ran.err)
    assert reason in line, line
    failed = vine.srun(*words, "--vine-fallback=fail", env.script, check=False)
    assert failed.code == 1
    assert failed.out == ""
    assert reason in failed.err
    job = vine.sbatch(f"{env.script}", "-N1", *words, "--vine-fallback=fail")
    assert job.state == "FAILED"
    assert "first" not in job.out


def test_daemon_absent(vine: Cluster) -> None:
    env = make_environment(vine)
    vine.daemon("n2", "stop")
    runs_from_the_source(vine, env, "-N1", "-w", "n2", reason="daemon")


def test_manager_absent(vine: Cluster) -> None:
    env = make_environment(vine)
    vine.daemon("ctl", "stop")
    vine.wait_for(
        lambda: not vine.status("n1")["node"]["manager_up"], 10, "the manager's end"
    )
    runs_from_the_source(vine, env, "-N1", reason="manager")


def test_manager_absent_on_many_nodes_warns_once(vine: Cluster) -> None:
    env = make_environment(vine)
    vine.daemon("ctl", "stop")
    result = vine.srun("-N4", f"--vine-env={env.path}", env.script)
    assert result.out.count("first ") == 4
    assert len(warnings(result.err)) == 1


def test_manager_that_is_stopped(vine: Cluster) -> None:
    """Its connections stay, and it says nothing: jobs fall back, and then it is used
    again."""
    env = make_environment(vine)
    signal = "kill -{} $(cat /run/minislurm/vine.pid)"
    vine.wait_for(lambda: vine.status("n1")["node"]["manager_up"], 30, "the manager")
    vine.run("ctl", "sh", "-c", signal.format("STOP"))
    try:
        result = vine.srun("-N1", "-w", "n1", f"--vine-env={env.path}", env.script)
    finally:
        vine.run("ctl", "sh", "-c", signal.format("CONT"))
    assert result.out.count(f"first {env.path}/") == 1
    (line,) = warnings(result.err)
    assert "manager" in line, line
    assert "event=manager-silent" in vine.log("n1")
    vine.wait_for(
        lambda: vine.status("n1")["node"]["manager_up"], 30, "the manager's return"
    )
    again = vine.srun("-N1", "-w", "n1", f"--vine-env={env.path}", env.script)
    assert not warnings(again.err)


def test_warm_start_needs_no_manager_for_a_bound_job(vine: Cluster) -> None:
    env = make_environment(vine)
    marker = f"{env.path}-go"
    script = f"""
        srun -N1 {env.script}
        touch {env.path}-ready
        until [ -e {marker} ]; do sleep 0.1; done
        srun -N1 {env.script}
    """
    job = vine.submit(script, "-N1", "-w", "n1", f"--vine-env={env.path}")
    ready = ["test", "-e", f"{env.path}-ready"]
    vine.wait_for(
        lambda: vine.run("n2", *ready, check=False).code == 0, 60, "the first step"
    )
    vine.daemon("ctl", "stop")
    vine.run("n2", "touch", marker, user="vine1")
    ended = vine.wait_job(job)
    assert ended.out.count("first ") == 2
    assert not warnings(ended.out)


def test_unreadable_source(vine: Cluster) -> None:
    env = make_environment(vine)
    vine.sh("n1", f"chmod 000 {env.path}/ballast", user="vine1")
    runs_from_the_source(vine, env, "-N1", reason="ballast")


def test_disk_full_says_the_figures(vine: Cluster) -> None:
    env = make_environment(vine, ballast_bytes=40 * MIB)
    conf = "/etc/vine-env/vine-env.conf"
    vine.sh("n3", f"sed -i 's/^cache_max.*/cache_max = 10M/' {conf}")
    vine.daemon("n3", "stop")
    vine.daemon("n3", "start")
    try:
        runs_from_the_source(vine, env, "-N1", "-w", "n3", reason="short")
    finally:
        vine.sh("n3", f"sed -i 's/^cache_max.*/cache_max = 3G/' {conf}")
        vine.daemon("n3", "stop")
        vine.daemon("n3", "start")


def test_scancel_during_a_long_stage(vine: Cluster) -> None:
    env = make_environment(vine, ballast_bytes=60 * MIB)
    vine.evict_all()
    vine.pfs_drop_caches()
    vine.pfs_set(client_mbs=1)
    running = vine.srun_start("-N2", f"--vine-env={env.path}", env.script)
    vine.wait_for(lambda: "vine-env:" in running.err, 30, "a progress line")
    (line,) = vine.jobs()
    vine.run("ctl", "scancel", line.split()[0])
    vine.wait_for(lambda: not vine.jobs(), 10, "the job's end")
    vine.wait_for(
        lambda: set(vine.node_states().values()) == {"idle"}, 10, "idle nodes"
    )
    running.wait(10)
    assert "first" not in running.out
    vine.wait_for(
        lambda: not vine.status("n1")["jobs"] and not vine.status("n2")["jobs"],
        10,
        "the leases' end",
    )
    for node in ("n1", "n2"):
        found = vine.run(node, "pgrep", "-x", "vine-source|vine-squash", check=False)
        assert found.out == ""
        assert vine.sh(node, "ls /local/vine/tmp /local/vine/partial").split() == [
            "/local/vine/partial:",
            "/local/vine/tmp:",
        ]


def test_a_job_that_ends_without_a_daemon_keeps_no_lease(vine: Cluster) -> None:
    """Its epilog finds nobody and leaves a note."""
    env = make_environment(vine)
    go = f"{env.path}-go"
    running = vine.srun_start(
        *("-N1", "-w", "n2", f"--vine-env={env.path}", "bash", "-c"),
        f"{env.script}; until [ -e {go} ]; do sleep 0.1; done",
    )
    vine.wait_for(lambda: "first " in running.out, 30, "the job's start")
    vine.daemon("n2", "stop")
    vine.sh("n1", f"touch {go}", user=env.owner)
    running.wait(20).checked()
    ended = "/run/vine/ended"
    (note,) = vine.wait_for(lambda: vine.sh("n2", f"ls {ended}").split(), 20, "a note")
    vine.daemon("n2", "start")
    vine.wait_for(lambda: not vine.status("n2")["jobs"], 10, "the lease's end")
    vine.wait_for(lambda: not vine.sh("n2", f"ls {ended}"), 10, "the note's end")
    # One that runs is told by the directory.
    vine.sh("n2", f"touch {ended}/{note}")
    vine.wait_for(lambda: not vine.sh("n2", f"ls {ended}"), 10, "the note's end")
    assert f'event=job-ended job={note} reason="epilog' in vine.log("n2")


def test_crash_of_a_serving_node(vine: Cluster) -> None:
    """The only node that has it dies in the middle; the others read the source anew."""
    env = make_environment(vine, ballast_bytes=150 * MIB)
    image, size = make_image(vine, env)
    vine.evict_all()
    vine.run("n8", "vine-env", "stage", image, user="vine1", timeout=120)
    # n8 has no task, so Slurm does not kill the job when it dies.
    words = ["-N7", "-w", "n[1-7]", f"--vine-env={image}", env.script]
    running = vine.srun_start(*words)

    def fetched() -> int:
        return sum(o["bytes_peer"] for o in vine.status("n1")["objects"])

    vine.wait_for(lambda: fetched() > 20 * MIB, 30, "bytes from n8 on n1")
    vine.crash("n8")
    assert fetched() < size, "n1 had all of it before the crash"
    result = running.wait(120).checked()
    assert result.out.count("first ") == 7
    assert not warnings(result.err)


def test_killed_daemon_resumes(vine: Cluster) -> None:
    env = make_environment(vine, ballast_bytes=120 * MIB)
    image, size = make_image(vine, env)
    vine.evict_all()
    vine.shape("n2", "100mbit")
    vine.run("n1", "vine-env", "stage", image, user="vine1")
    running = vine.srun_start("-N1", "-w", "n2", f"--vine-env={image}", env.script)

    def bytes_done() -> int:
        return sum(o["bytes_done"] for o in vine.status("n2")["objects"])

    vine.wait_for(lambda: bytes_done() > 20 * MIB, 30, "a part of the image")
    vine.daemon("n2", "kill")
    vine.daemon("n2", "start")
    ping = ["vine-env", "status"]
    vine.wait_for(
        lambda: vine.run("n2", *ping, check=False).code == 0, 20, "the new daemon"
    )
    assert bytes_done() > 10 * MIB
    result = running.wait(60).checked()
    assert result.out.count("first ") == 1
    assert vine.status("n2")["node"]["bytes_peer"] < size - 10 * MIB


def test_manager_restart_while_staging(vine: Cluster) -> None:
    env = make_environment(vine, ballast_bytes=120 * MIB)
    image, _ = make_image(vine, env)
    vine.evict_all()
    running = vine.srun_start("-N8", f"--vine-env={image}", env.script)
    vine.wait_for(
        lambda: any(o["bytes_done"] > 5 * MIB for o in vine.status("n5")["objects"]),
        30,
        "bytes on n5",
    )
    vine.daemon("ctl", "kill")
    vine.daemon("ctl", "start")
    result = running.wait(90).checked()
    assert result.out.count("first ") == 8
