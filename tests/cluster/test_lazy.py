"""--vine-start=lazy: tasks start on an image that is still on its way."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from cluster import Cluster
from environments import Environment, make_environment

MIB = 1 << 20
CONF = "/etc/vine-env/vine-env.conf"
SLOW = "32mbit"  # 4 MB/s: ten seconds for the ballast below
BALLAST = 40 * MIB


def staged(vine: Cluster, node: str = "n1", ballast: int = BALLAST) -> Environment:
    """An environment that `node` alone has."""
    env = make_environment(vine, ballast_bytes=ballast)
    vine.srun("-N1", "-w", node, f"--vine-env={env.path}", "true")
    return env


def checksum(vine: Cluster, env: Environment) -> str:
    return vine.sh("n1", f"sha256sum < {env.path}/ballast", user=env.owner)


def lines(vine: Cluster, node: str, event: str) -> list[str]:
    return [line for line in vine.log(node).splitlines() if f"event={event} " in line]


def values(line: str) -> dict[str, str]:
    return dict(re.findall(r"(\w+)=(\S+)", line))


def lazy_processes(vine: Cluster, node: str) -> list[str]:
    return vine.sh(node, "pgrep -x vine-lazy || true").split()


def handed_over(vine: Cluster, node: str, count: int) -> dict[str, str]:
    """Wait for the node's hand-over number `count`."""
    vine.wait_for(
        lambda: len(lines(vine, node, "handover")) >= count, 60, "the hand-over"
    )
    vine.wait_for(lambda: not lazy_processes(vine, node), 10, "vine-lazy's end")
    return values(lines(vine, node, "handover")[count - 1])


def object_of(vine: Cluster, node: str, env: Environment) -> dict[str, Any]:
    """What the node's status says of the object that its job for `env` leases."""
    status = vine.status(node)
    (digest,) = {j["digest"] for j in status["jobs"] if j["path"] == env.path}
    (found,) = [o for o in status["objects"] if o["digest"] == digest]
    return found


def bytes_done(vine: Cluster, node: str, env: Environment) -> int:
    return int(object_of(vine, node, env)["bytes_done"])


def complete(vine: Cluster, node: str, env: Environment) -> bool:
    return object_of(vine, node, env)["state"] == "complete"


@contextmanager
def timeout_of(vine: Cluster, node: str, seconds: int) -> Iterator[None]:
    """The node's daemon with another lazy_timeout."""

    def restart() -> None:
        vine.daemon(node, "stop")
        vine.daemon(node, "start")

    vine.sh(node, f"sed -i 's/^cache_max.*/&\\nlazy_timeout = {seconds}/' {CONF}")
    restart()
    try:
        yield
    finally:
        vine.sh(node, f"sed -i '/^lazy_timeout/d' {CONF}")
        restart()


def test_tasks_start_early_and_see_the_same_bytes(vine: Cluster) -> None:
    env = staged(vine)
    before = len(lines(vine, "n2", "handover"))
    vine.shape("n2", SLOW)
    script = f"{env.script}; vine-env status --json; sha256sum < {env.path}/ballast"
    result = vine.srun(
        *("-N1", "-w", "n2", f"--vine-env={env.path}", "--vine-start=lazy"),
        *("bash", "-c", script),
    )
    word, rest = result.out.split("\n", 1)
    status, end = json.JSONDecoder().raw_decode(rest)
    assert word.startswith("first ")
    (digest,) = {job["digest"] for job in status["jobs"]}
    (there,) = [o for o in status["objects"] if o["digest"] == digest]
    assert there["state"] == "fetching"
    assert there["bytes_done"] < there["size"] / 2
    assert rest[end:].strip() == checksum(vine, env).strip()
    counters = handed_over(vine, "n2", before + 1)
    # More than half came while it was read; the end may be read after the hand-over.
    assert int(counters["bytes"]) > BALLAST / 2
    assert int(counters["waits"]) > 0
    assert counters["errors"] == "0"


def test_after_the_hand_over_nothing_goes_through_fuse(vine: Cluster) -> None:
    env = staged(vine)
    before = len(lines(vine, "n2", "handover"))
    vine.shape("n2", SLOW)
    option = f"--vine-env={env.path}"
    done = f"{env.path}-done"
    # The same task reads before and after, from one mount.
    wait = f"{env.script}; until [ -e {done} ]; do sleep 0.1; done; {env.script}"
    running = vine.srun_start(
        *("-N1", "-w", "n2", option, "--vine-start=lazy", "bash", "-c"),
        f"{wait}; sha256sum < {env.path}/ballast",
    )
    counters = handed_over(vine, "n2", before + 1)
    # The process that served it is gone; what reads now reads from the store.
    assert int(counters["bytes"]) < BALLAST
    mounts = vine.sh("n2", "cat /proc/*/mountinfo 2>/dev/null || true")
    assert " - squashfs " in mounts
    assert " - fuse vine-lazy " not in mounts
    assert vine.sh("n2", "ls /run/vine/lazy").strip() == ""
    vine.sh("n1", f"touch {done}", user=env.owner)
    result = running.wait(60).checked()
    assert result.out.count("first ") == 2
    assert result.out.split("\n")[2] == checksum(vine, env).rstrip("\n")
    again = vine.srun("-N1", "-w", "n2", option, "--vine-start=lazy", env.script)
    assert again.out.startswith("first ")
    assert len(lines(vine, "n2", "handover")) == before + 1


def test_what_cannot_be_had_is_an_error_with_a_reason(vine: Cluster) -> None:
    env = staged(vine)
    with timeout_of(vine, "n2", 3):
        vine.shape("n2", SLOW)
        script = f"{env.script}; sha256sum {env.path}/ballast"
        go = f"{env.path}-go"
        wait = f"until [ -e {go} ]; do sleep 0.1; done; {script}"
        running = vine.srun_start(
            *("-N1", "-w", "n2", f"--vine-env={env.path}", "--vine-start=lazy"),
            *("bash", "-c", wait),
        )
        vine.wait_for(
            lambda: bool(lazy_processes(vine, "n2")), 20, "the lazily mounted image"
        )
        # No node has the rest any more, and the source cannot be read.
        vine.daemon("n1", "kill")
        vine.sh("n1", f"chmod 000 {env.path}/ballast; touch {go}", user=env.owner)
        result = running.wait(60)
        assert result.code != 0
        assert "Input/output error" in result.err
        assert "could not read (EIO): nothing arrived for 3 s" in result.err
        assert env.path in result.err
        assert lines(vine, "n2", "lazy-expired")
    assert vine.node_states()["n2"] in ("idle", "allocated", "completing")


def test_the_death_of_vine_lazy_hangs_nobody(vine: Cluster) -> None:
    env = staged(vine)
    vine.shape("n2", SLOW)
    option = f"--vine-env={env.path}"
    go = f"{env.path}-go"
    ballast = f"{env.path}/ballast"
    running = vine.srun_start(
        *("-N1", "-w", "n2", option, "--vine-start=lazy", "bash", "-c"),
        # Its inode is known before: squashfs remembers what it could not read of that.
        f"tail -c 1 {ballast} > /dev/null; {env.script}; sha256sum {ballast}; "
        f"echo went on; until [ -e {go} ]; do sleep 0.1; done; sha256sum < {ballast}",
    )
    vine.wait_for(lambda: "first " in running.out, 20, "the job's start")
    (process,) = lazy_processes(vine, "n2")
    vine.sh("n2", f"kill -9 {process}")
    vine.wait_for(lambda: "went on" in running.out, 20, "the read's end")
    # The rest comes all the same, and then the very same task can read it.
    vine.wait_for(lambda: complete(vine, "n2", env), 60, "the whole object")
    vine.wait_for(lambda: "reads=unknown" in vine.log("n2"), 10, "the hand-over")
    vine.sh("n1", f"touch {go}", user=env.owner)
    result = running.wait(20)
    assert result.out.split("\n")[-2] == checksum(vine, env).rstrip("\n")
    assert "Input/output error" in result.err
    assert "vine-lazy, which served it, ended" in result.err
    after = vine.srun("-N1", "-w", "n2", option, "sha256sum", ballast)
    assert after.out.split()[0] == checksum(vine, env).split()[0]


def test_a_restarted_daemon_completes_what_runs(vine: Cluster) -> None:
    env = staged(vine)
    before = len(lines(vine, "n2", "handover"))
    vine.shape("n2", SLOW)
    running = vine.srun_start(
        *("-N1", "-w", "n2", f"--vine-env={env.path}", "--vine-start=lazy"),
        *("bash", "-c", f"{env.script}; sha256sum < {env.path}/ballast"),
    )
    vine.wait_for(lambda: "first " in running.out, 20, "the job's start")
    vine.daemon("n2", "kill")
    vine.daemon("n2", "start")
    result = running.wait(60).checked()
    assert result.out.split("\n")[1] == checksum(vine, env).rstrip("\n")
    assert lines(vine, "n2", "lazy-adopted")
    handed_over(vine, "n2", before + 1)


def reads_known(vine: Cluster, node: str) -> list[list[int]]:
    """What is written down with the objects of a node about the reads of starts."""
    metas = vine.sh(node, "cat /local/vine/objects/*/meta.json")
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(metas.rstrip()):
        meta, at = decoder.raw_decode(metas, at)
        found += meta["reads"]
    return found


def test_the_pieces_of_the_first_run_come_first_ever_after(vine: Cluster) -> None:
    vine.evict_all()
    env = staged(vine)
    lazily = ("-N1", f"--vine-env={env.path}", "--vine-start=lazy", "bash", "-c")
    # 2 MiB in the middle: nothing that a start would read otherwise.
    read = f"dd if={env.path}/ballast bs=1M skip=20 count=2 status=none | sha256sum"
    vine.shape("n2", SLOW)
    before = len(lines(vine, "n2", "lazy-left"))
    first = vine.srun("-w", "n2", *lazily, f"{env.script}; {read}")
    # It ended before all was there: what it read is remembered, the mount goes.
    vine.wait_for(
        lambda: len(lines(vine, "n2", "lazy-left")) > before, 10, "the mount's end"
    )
    vine.wait_for(lambda: not lazy_processes(vine, "n2"), 10, "vine-lazy's end")
    left = values(lines(vine, "n2", "lazy-left")[-1])
    assert int(left["waits"]) > 0
    # Another node: the manager knows now. These pieces are there long before the rest.
    vine.shape("n3", SLOW)
    before = len(lines(vine, "n3", "handover"))
    go, end = f"{env.path}-go", f"{env.path}-end"
    second = vine.srun_start(
        *("-w", "n3", *lazily),
        f"{env.script}; until [ -e {go} ]; do sleep 0.1; done; {read}; "
        f"until [ -e {end} ]; do sleep 0.1; done",
    )
    vine.wait_for(lambda: "first " in second.out, 20, "the second start")
    vine.wait_for(lambda: bytes_done(vine, "n3", env) > 6 * MIB, 20, "some of it")
    assert bytes_done(vine, "n3", env) < 20 * MIB
    vine.sh("n1", f"touch {go}", user=env.owner)
    vine.wait_for(lambda: second.out.count("\n") == 2, 20, "the second read")
    assert second.out == first.out
    counters = handed_over(vine, "n3", before + 1)
    vine.sh("n1", f"touch {end}", user=env.owner)
    second.wait(20).checked()
    assert int(counters["waits"]) < int(left["waits"])
    # And n3 has it from now on, too.
    assert reads_known(vine, "n3")


@pytest.mark.parametrize(
    ("option", "variable"), [("bad", None), ("", None), (None, "Lazy")]
)
def test_another_word_is_refused_at_once(
    vine: Cluster, option: str | None, variable: str | None
) -> None:
    given = [f"--vine-start={option}"] if option is not None else []
    setting = f"VINE_ENV_START={variable}" if variable else "A=b"
    for command in (["srun"], ["salloc"]):
        done = vine.run(
            *("n1", "env", setting, *command, "-N1", *given, "true"),
            check=False,
            user="vine1",
        )
        assert done.code != 0
        assert "full or lazy" in done.err
    assert not vine.jobs()


@pytest.mark.parametrize("way", ["sbatch", "variable"])
def test_steps_inherit_it(vine: Cluster, way: str) -> None:
    env = staged(vine)
    vine.shape("n2", SLOW)
    before = len(lines(vine, "n2", "lazy-mounted"))
    options = [f"--vine-env={env.path}", "-N1", "-w", "n2"]
    script = f"srun -N1 -n1 {env.script}"
    if way == "sbatch":
        options.append("--vine-start=lazy")
    else:
        script = f"export VINE_ENV_START=lazy; {script}"
        options.remove(f"--vine-env={env.path}")
        script = f"export VINE_ENV_SPEC={env.path}; {script}"
    job = vine.sbatch(script, *options)
    assert "first " in job.out
    assert len(lines(vine, "n2", "lazy-mounted")) == before + 1


def test_full_waits_for_what_is_lazily_mounted(vine: Cluster) -> None:
    env = staged(vine, ballast=20 * MIB)
    vine.shape("n2", SLOW)
    option = f"--vine-env={env.path}"
    go = f"{env.path}-go"
    lazy = vine.srun_start(
        *("-N1", "-w", "n2", option, "--vine-start=lazy", "bash", "-c"),
        f"{env.script}; until [ -e {go} ]; do sleep 0.1; done",
    )
    vine.wait_for(lambda: "first " in lazy.out, 20, "the lazy job's start")
    full = vine.srun(
        *("-N1", "-w", "n2", option, "bash", "-c"),
        "vine-env status --json",
        timeout=60,
    )
    (there,) = [
        o for o in json.loads(full.out)["objects"] if o["size"] > 20 * MIB - MIB
    ][:1]
    assert there["bytes_done"] == there["size"]
    vine.sh("n1", f"touch {go}", user=env.owner)
    lazy.wait(30).checked()
