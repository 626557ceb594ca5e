"""Nobody reads what they could not read before; root-squashed sources are normal."""

from __future__ import annotations

import pytest
from cluster import Cluster
from environments import Environment, make_environment, make_image, moved, totals

SECRET = "not-for-vine2"


@pytest.fixture
def private(vine: Cluster) -> Environment:
    """vine1's environment below a directory of mode 0700."""
    parent = "/pfs/home/vine1/private"
    env = make_environment(vine, word=SECRET, parent=parent)
    vine.sh("n1", f"chmod 700 {parent} {env.path}", user="vine1")
    return env


def test_another_user_gets_nothing(vine: Cluster, private: Environment) -> None:
    """While vine1's job runs on n1, vine2 tries every way in on the same node."""
    go = "/pfs/home/vine1/go-isolation"
    vine.sh("n1", f"rm -f {go}", user="vine1")
    wait = f"{private.script}; until [ -e {go} ]; do sleep 0.1; done"
    words = ["-N1", "-w", "n1", "--mem=100", f"--vine-env={private.path}"]
    running = vine.srun_start(*words, "bash", "-c", wait)
    vine.wait_for(lambda: SECRET in running.out, 60, "vine1's task")
    digest = vine.status("n1")["objects"][0]["digest"]
    tries = [
        f"cat {private.script}",
        "ls /local/vine",
        f"cat /local/vine/objects/{digest}/image",
        "ls /run/vine/mnt",
        f"ls /run/vine/mnt/{digest}",
        f"cat /run/vine/mnt/{digest}/bin/vine-hello",
        f"vine-env evict {digest}",
        f"vine-env stage {private.path}",
        f"vine-env stage /local/vine/objects/{digest}/image",
        f"vine-env stage /run/vine/mnt/{digest}",
        f"vine-env pack {private.path} -o /tmp/stolen.sqsh",
        f"vine-env pack /run/vine/mnt/{digest} -o /tmp/stolen.sqsh",
    ]
    for attempt in tries:
        result = vine.run("n1", "bash", "-c", attempt, user="vine2", check=False)
        assert result.code != 0, str(result)
        assert SECRET not in result.out + result.err
    roots = "for r in /proc/[0-9]*/root; do cat $r" + private.script + "; done"
    assert (
        SECRET not in vine.run("n1", "bash", "-c", roots, user="vine2", check=False).out
    )
    mounts = vine.run("n1", "cat", "/proc/self/mountinfo", user="vine2").out
    assert private.path not in mounts
    status = vine.run("n1", "vine-env", "status", "--json", user="vine2").out
    assert digest not in status and private.path not in status
    # By name, in a job of vine2's own: refused, and it sees what it always saw.
    words = ["-N1", "-w", "n1", "--mem=100", f"--vine-env={private.path}"]
    job = vine.srun(*words, "cat", private.script, user="vine2", check=False)
    assert job.code != 0
    assert SECRET not in job.out
    vine.sh("n1", f"touch {go}", user="vine1")
    running.wait(30).checked()


def test_identical_metadata_does_not_give_anothers_bytes(vine: Cluster) -> None:
    """A file vine2 may see but not read, copied with the same name, size and times."""
    shared = "/pfs/home/vine1/mixed"
    vine.sh(
        "n1",
        f"rm -rf {shared}; mkdir -p {shared}; echo secret-1 > {shared}/file;"
        f"chmod 600 {shared}/file",
        user="vine1",
    )
    option = f"--vine-env={shared}"
    vine.srun("-N1", "-w", "n1", option, "cat", f"{shared}/file")
    forged = "/pfs/home/vine2/mixed"
    vine.sh(
        "n1",
        f"rm -rf {forged}; mkdir -p {forged}; echo forged-2 > {forged}/file;"
        f"chmod 600 {forged}/file; touch -r {shared}/file {forged}/file",
        user="vine2",
    )
    for source in (f"{forged}", f"{forged}:{forged}"):
        result = vine.srun(
            "-N1", "-w", "n1", f"--vine-env={source}", "cat", f"{forged}/file",
            user="vine2",
        )  # fmt: skip
        assert result.out == "forged-2\n"


def test_a_world_readable_environment_is_built_once_for_all(vine: Cluster) -> None:
    env = make_environment(vine, word="shared")
    vine.srun("-N1", "-w", "n1", f"--vine-env={env.path}", env.script)
    before = vine.pfs_counters()["bytes_read"]
    result = vine.srun(
        "-N1", "-w", "n1", f"--vine-env={env.path}", env.script, user="vine2"
    )
    assert result.out.startswith("shared ")
    assert vine.pfs_counters()["bytes_read"] == before


@pytest.mark.parametrize("squash", [0, 1])
def test_private_home_works_for_its_owner(
    vine: Cluster, private: Environment, squash: int
) -> None:
    vine.pfs_set(root_squash=squash)
    vine.pfs_drop_caches()
    if squash:
        denied = vine.run("n1", "ls", private.path, check=False)
        assert denied.code != 0, "the stand-in does not squash root"
    script = f"{private.script}; grep ' {private.path} ' /proc/self/mountinfo"
    result = vine.srun("-N8", f"--vine-env={private.path}", "bash", "-c", script)
    assert result.out.count(SECRET) == 8
    assert result.out.count("squashfs") == 8
    assert "warning" not in result.err
    image, _ = make_image(vine, private)
    vine.evict_all()
    result = vine.srun("-N8", f"--vine-env={image}", "bash", "-c", script)
    assert result.out.count(SECRET) == 8
    assert result.out.count("squashfs") == 8
    job = vine.sbatch(f"srun {private.script}", "-N2", f"--vine-env={private.path}")
    assert job.out.count(SECRET) == 2


def test_changed_and_missing_sources_under_root_squash(
    vine: Cluster, private: Environment
) -> None:
    vine.pfs_set(root_squash=1)
    option = f"--vine-env={private.path}"
    vine.srun("-N1", option, private.script)
    module = f"{private.path}/lib/python3*/site-packages/hello/__init__.py"
    vine.sh("n1", f"echo 'WORDS = \"changed\"' > {module}", user="vine1")
    assert vine.srun("-N1", option, private.script).out.startswith("changed ")
    other = vine.srun("-N1", option, private.script, user="vine2", check=False)
    assert other.code != 0
    assert "changed" not in other.out


def test_wire_needs_munge_of_root(vine: Cluster) -> None:
    """A user's program that knows the port gets no further than the handshake."""
    talk = (
        "import socket\n"
        "for port in (7111,):\n"
        "    s = socket.create_connection(('n1', port), 5)\n"
        "    s.sendall(bytes(4096))\n"
        "    s.settimeout(15)\n"
        "    data = b''\n"
        "    while True:\n"
        "        try:\n"
        "            part = s.recv(4096)\n"
        "        except ConnectionResetError:\n"
        "            break\n"
        "        if not part:\n"
        "            break\n"
        "        data += part\n"
        "    print(len(data))\n"
    )
    result = vine.run("n2", "python3", "-c", talk, user="vine2", timeout=30)
    assert int(result.out) < 200
    assert vine.status("n1")["node"]["manager_up"]


def test_a_trailer_without_the_bytes_gives_nothing(
    vine: Cluster, private: Environment
) -> None:
    """vine2 knows all digests of vine1's packed image, but has none of its content."""
    image, _ = make_image(vine, private)
    vine.srun("-N2", "-w", "n1,n2", f"--vine-env={image}", "true")
    forge = (
        "import sys; data = open(sys.argv[1], 'rb').read();"
        "tail = data.rfind(b'VNINFO1\\n');"
        "open(sys.argv[2], 'wb').write(data[:96] + bytes(tail - 96) + data[tail:])"
    )
    forged = "/pfs/home/vine2/forged.sqsh"
    dst = "/pfs/home/vine2/forged-dst"
    vine.run("n1", "python3", "-c", forge, image, forged)
    vine.sh("n1", f"chown vine2 {forged}")
    vine.run("n1", "mkdir", "-p", dst, user="vine2")
    words = ["-N1", "-w", "n1", f"--vine-env={forged}:{dst}", "--vine-fallback=fail"]
    result = vine.srun(
        *words, "cat", f"{dst}/bin/vine-hello", user="vine2", check=False
    )
    assert result.code != 0
    assert "wrong bytes" in result.err
    assert result.out == ""


def test_users_cannot_touch_the_process_that_serves_their_image(vine: Cluster) -> None:
    """Stopped by its user, squashfuse would leave tasks that Slurm cannot kill."""
    env = make_environment(vine)
    image = f"{env.path}-own.sqsh"
    words = ["mksquashfs", env.path, image, "-comp", "zstd", "-quiet", "-no-progress"]
    vine.run("n1", *words, user="vine1")
    option = f"--vine-env={image}:{env.path}"
    script = f"{env.script}; for p in $(pgrep -x squashfuse); do kill -STOP $p; done"
    result = vine.srun("-N1", "-w", "n1", option, "bash", "-c", script, check=False)
    assert result.out.startswith("first ")
    assert "not permitted" in result.err
    owners = vine.sh("n1", "ps -o uid= -C squashfuse").split()
    assert owners
    assert not {"0", "20001"} & set(owners)
    opened = vine.sh("n1", "ls -l /proc/$(pgrep -n -x squashfuse)/fd")
    assert "vined.log" not in opened
    assert vine.srun("-N1", "-w", "n1", option, env.script).out.startswith("first ")


def test_a_trailer_is_no_title_to_the_content(vine: Cluster) -> None:
    """vine2 has all of vine1's packed file but 64 KiB, all digests included."""
    parent = "/pfs/home/vine1/private-image"
    env = make_environment(vine, SECRET, parent=parent, ballast_bytes=8 << 20)
    image, size = make_image(vine, env)
    vine.srun("-N2", "-w", "n1,n2", f"--vine-env={image}", env.script)
    forged, whole = "/pfs/home/vine2/forged.sqsh", "/pfs/home/vine2/whole.sqsh"
    script = f"""
        cp {image} {forged}; cp {image} {whole}
        dd if=/dev/zero of={forged} bs=64k count=1 seek=64 conv=notrunc status=none
        chown 20002:20002 {forged} {whole}
    """
    vine.sh("n1", script)
    wanted = [f"--vine-env={forged}:/home/vine2", "--vine-fallback=fail"]
    before = totals(vine)
    for nodes in ("n1", "n3", "n2,n4"):
        words = ["-N", str(nodes.count(",") + 1), "-w", nodes, *wanted]
        job = vine.srun(*words, "ls", "/home/vine2", user="vine2", check=False)
        assert job.code != 0 and "wrong bytes" in job.err, str(job)
        assert "bin" not in job.out
    assert moved(before, totals(vine))["bytes_peer"] == 0
    # Who can read it all has it from peers, and has shown it for good.
    for reads in (size, 0):
        vine.pfs_drop_caches()
        begun = vine.pfs_counters()["bytes_read"]
        words = ["-N2", "-w", "n2,n3", f"--vine-env={whole}:/home/vine2"]
        job = vine.srun(*words, "ls", "/home/vine2", user="vine2")
        assert job.out.count("pyvenv.cfg") == 2
        read = vine.pfs_counters()["bytes_read"] - begun
        assert reads * 0.98 <= read <= reads * 1.1
    vine.sh("n1", f"rm -f {forged} {whole}")
