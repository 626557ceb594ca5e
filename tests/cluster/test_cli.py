"""vine-env on a cluster: what it shows, does, refuses; and what doctor finds."""

from __future__ import annotations

import json
import re
import secrets
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from cluster import Cluster, Result

ENV = "/pfs/home/vine1/cli-env"


@pytest.fixture
def env(vine: Cluster) -> str:
    script = (
        f"test -d {ENV} || (python3 -m venv --without-pip {ENV} &&"
        f" head -c 200000 /dev/urandom > {ENV}/unique)"
    )
    vine.sh("n1", script, user="vine1")
    return ENV


def cli(cluster: Cluster, *words: str, node: str = "n1", user: str = "root") -> Result:
    return cluster.run(node, "vine-env", *words, user=user, check=False)


def document(result: Result) -> Any:
    return json.loads(result.out)


# --- usage --------------------------------------------------------------------------

WRONG = [
    "",
    "frobnicate",
    "--frobnicate",
    "status --frobnicate",
    "status --json=yes",
    "status more",
    "status --job",
    "status --job x",
    "status --job 1 --cluster",
    "stage",
    "stage /a /b",
    "stage /a --nodes",
    "stage /a --nodes n[1-",
    "stage /a --nodes n[3-1]",
    "pack /a",
    "pack /a -o /tmp/image",
    "evict",
    "evict --all abcd",
    "evict xyz",
]


@pytest.mark.parametrize("words", WRONG)
def test_wrong_usage_is_told_with_the_right_form(vine: Cluster, words: str) -> None:
    result = cli(vine, *words.split())
    assert result.code == 2
    assert result.out == ""
    assert "form is: vine-env " in result.err or "vine-env --help" in result.err


def test_help_of_all_commands(vine: Cluster) -> None:
    whole = cli(vine, "--help")
    assert whole.code == 0
    for command in (
        "status",
        "ls",
        "stage",
        "pack",
        "inspect",
        "trace",
        "evict",
        "doctor",
    ):
        assert f"\n  {command}" in whole.out
        result = cli(vine, command, "--help")
        assert result.code == 0
        assert result.out.startswith(f"usage: vine-env {command}")
        for option in ("--json", "--socket", "--config", "--help"):
            assert option in result.out
    assert cli(vine, "--version").out.startswith("vine-env ")


def test_a_wrong_configuration_is_named(vine: Cluster) -> None:
    vine.sh("n1", "printf '[node]\\nfrob = 1\\n' > /tmp/wrong.conf")
    result = cli(vine, "status", "--config", "/tmp/wrong.conf")
    assert result.code == 1
    assert "/tmp/wrong.conf, line 2" in result.err


# --- stage, status, ls, evict -------------------------------------------------------


def test_stage_status_ls_evict(vine: Cluster, env: str) -> None:
    staged = document(cli(vine, "stage", env, "--json", user="vine1"))
    (source,) = staged["sources"]
    assert source["path"] == env
    assert source["activate"] == "venv"
    digest = source["digest"]
    status = document(cli(vine, "status", "--json"))
    assert status["node"]["name"] == "n1"
    assert status["node"]["manager_up"] is True
    assert digest in [o["digest"] for o in status["objects"]]
    shown = cli(vine, "ls").out
    assert digest[:12] in shown
    assert "complete" in shown
    assert digest in [
        o["digest"] for o in document(cli(vine, "ls", "--json"))["objects"]
    ]

    refused = cli(vine, "evict", digest[:12], user="vine1")
    assert refused.code == 1
    done = document(cli(vine, "evict", digest[:12], "--json"))
    assert done == {"evicted": 1, "kept_leased": 0}
    assert digest[:12] not in cli(vine, "ls").out
    again = cli(vine, "evict", digest[:12])
    assert again.code == 1
    assert "vine-env ls" in again.err


def test_stage_on_many_nodes(vine: Cluster, env: str) -> None:
    result = cli(vine, "stage", env, "--nodes", "n[1-2],n4", user="vine1")
    assert result.code == 0, str(result)
    assert result.out == "staged on 3 nodes\n"
    digests = [
        {o["digest"] for o in document(cli(vine, "ls", "--json", node=n))["objects"]}
        for n in ("n1", "n2", "n4")
    ]
    assert set.intersection(*digests)
    seen = document(cli(vine, "status", "--cluster", "--json"))
    assert {"n1", "n2", "n3", "n4"} <= {n["name"] for n in seen["nodes"]}
    assert any(o["seeds"] >= 3 for o in seen["objects"])
    unknown = cli(vine, "stage", env, "--nodes", "n99", user="vine1")
    assert unknown.code == 1
    assert "n99" in unknown.err


@dataclass(frozen=True)
class Staging:
    job: int
    path: str


@pytest.fixture
def staging(vine: Cluster) -> Iterator[Staging]:
    """A job of vine1 that n2 and n3 slowly get its environment for."""
    path = f"/pfs/home/vine1/slow-{secrets.token_hex(4)}"
    vine.sh("n1", f"mkdir {path}; head -c 60M /dev/urandom > {path}/x", user="vine1")
    assert cli(vine, "stage", path, user="vine1").code == 0
    for node in ("n2", "n3"):
        vine.shape(node, "8mbit")
    job = vine.submit("true", "-N2", "-w", "n2,n3", f"--vine-env={path}")
    yield Staging(job, path)
    vine.run("ctl", "scancel", str(job))
    vine.sh("n1", f"rm -r {path}", user="vine1")


def job_status(vine: Cluster, staging: Staging, user: str = "vine1") -> Any:
    words = ["status", "--job", str(staging.job), "--json"]
    return document(cli(vine, *words, user=user))


def test_how_far_a_jobs_nodes_are(vine: Cluster, staging: Staging) -> None:
    def moving() -> Any:
        found = job_status(vine, staging)
        sources = found.get("sources", [{}])
        far = [node["bytes_done"] for node in sources[0].get("on", [])]
        return found if len(far) == 2 and min(far) > 0 else None

    found = vine.wait_for(moving, 30, "both nodes to receive")
    (source,) = found["sources"]
    assert (source["path"], source["state"]) == (staging.path, "bound")
    assert (source["nodes"], source["ready"]) == (2, 0)
    assert source["slowest"] in ("n2", "n3")
    assert {node["name"] for node in source["on"]} == {"n2", "n3"}
    assert all(0 < n["bytes_done"] < source["bytes_total"] for n in source["on"])
    text = cli(vine, "status", "--job", str(staging.job), user="vine1").out
    assert staging.path in text and "fetching" in text
    for node in ("n2", "n3"):
        assert re.search(rf"^{node} .* \d+ % +{staging.path}$", text, re.M)
    # Root sees it too, others do not.
    assert len(job_status(vine, staging, "root")["sources"]) == 1
    assert job_status(vine, staging, "vine2")["error"]["code"] == "enoent"


def test_watching_a_job_on_a_terminal(vine: Cluster, staging: Staging) -> None:
    words = f"stty rows 7 cols 50; exec vine-env status --job {staging.job} --watch"
    watch = vine.popen("n1", "script", "-qec", words, "/dev/null", user="vine1")
    vine.wait_for(lambda: watch.out.count("\x1b[H") >= 3, 30, "three pictures")
    vine.wait_for(lambda: "B/s" in watch.out, 30, "a rate")
    # A daemon that is restarted is waited for.
    vine.daemon("n1", "stop")
    vine.wait_for(lambda: "no daemon" in watch.out, 30, "word of that")
    vine.daemon("n1", "start")
    before = watch.out.count("SOURCE")
    vine.wait_for(lambda: watch.out.count("SOURCE") > before + 2, 30, "more of it")
    watch.send(signal.SIGINT)
    watch.wait(10)
    for picture in watch.out.split("\x1b[H")[1:-1]:
        lines = re.sub(r"\x1b\[[0-9]*[KJ]", "", picture).split("\r\n")
        assert len(lines) <= 7
        assert max(map(len, lines)) <= 50


def test_watching_without_a_terminal(vine: Cluster) -> None:
    watch = vine.popen("n1", "vine-env", "status", "--watch", "--json")
    vine.wait_for(lambda: watch.out.count("\n") >= 2, 10, "two documents")
    watch.kill()
    for line in watch.out.splitlines()[:2]:
        assert json.loads(line)["node"]["name"] == "n1"
    watch = vine.popen("n1", "vine-env", "status", "--cluster", "--watch")
    vine.wait_for(lambda: watch.out.count("NODE ") >= 2, 10, "two tables")
    watch.kill()
    assert "\x1b" not in watch.out
    watch = vine.popen("n1", "vine-env", "status", "--watch")
    vine.wait_for(lambda: "\nnow  " in watch.out, 10, "a rate")
    watch.kill()
    assert "\nnow  " not in cli(vine, "status").out  # which needs two looks


def test_a_relative_path_and_an_absent_one(vine: Cluster, env: str) -> None:
    done = vine.sh("n2", f"cd {env}/.. && vine-env stage cli-env", user="vine1")
    assert done.startswith(f"{env}: ")
    absent = cli(vine, "stage", "/pfs/no/such", "--json", user="vine1")
    assert absent.code == 1
    assert document(absent)["error"]["code"] == "enoent"


def test_without_a_daemon_it_says_where_to_look(vine: Cluster, env: str) -> None:
    vine.daemon("n2", "stop")
    for words in (["status"], ["ls"], ["stage", env], ["evict", "--all"]):
        result = cli(vine, *words, node="n2")
        assert result.code == 1
        assert "vine-env doctor" in result.err
    result = cli(vine, "status", "--json", node="n2")
    assert document(result)["error"]["code"] == "edown"


# --- pack ---------------------------------------------------------------------------


def test_pack_without_a_daemon(vine: Cluster, env: str) -> None:
    image = "/home/vine1/cli-local.sqsh"
    words = ["pack", env, "-o", image, "--force", "--local", "--json"]
    done = document(cli(vine, *words, user="vine1"))
    assert done["out"] == image
    assert done["signed"] is False
    assert done["entries"] > 10
    owner = vine.run("n1", "stat", "-c", "%U", image).out
    assert owner.strip() == "vine1"
    refused = cli(vine, "pack", env, "-o", image, "--local", user="vine1")
    assert refused.code == 1
    assert image in refused.err


def test_pack_by_the_daemon_is_signed(vine: Cluster, env: str) -> None:
    image = "/home/vine1/cli-daemon.sqsh"
    words = ["pack", env, "-o", image, "--force", "--json"]
    result = cli(vine, *words, user="vine1")
    assert result.code == 0, str(result)
    done = document(result)
    assert done["signed"] is True
    assert done["size"] > 0
    owner = vine.run("n1", "stat", "-c", "%U", image).out
    assert owner.strip() == "vine1"


def test_the_daemon_leaves_out_and_sorts(vine: Cluster, env: str) -> None:
    home = "/home/vine1"
    vine.sh(
        "n1", f"printf '# vine-env trace 1\\npyvenv.cfg\\n' >{home}/t", user="vine1"
    )
    shape = ["--exclude", "[Aa]ctivate*", "--sort-by-trace", f"{home}/t"]
    words = ["pack", env, "-o", f"{home}/shaped.sqsh", "--force", "--json", *shape]
    done = document(cli(vine, *words, user="vine1"))
    whole = document(
        cli(vine, *words[:3], f"{home}/whole.sqsh", *words[4:6], user="vine1")
    )
    assert done["signed"] is True
    assert 0 < done["files"] < whole["files"]
    seen = document(cli(vine, "inspect", done["out"], "--json", user="vine1"))
    assert (seen["files"], seen["bytes"]) == (done["files"], done["bytes"])
    assert (seen["prefix"], seen["env"], seen["signed"]) == (env, done["env"], True)
    # The trace is opened with the caller's rights.
    vine.sh("n1", f"chmod 600 {home}/t", user="vine1")
    words[3] = "/home/vine2/x.sqsh"
    refused = cli(vine, *words, user="vine2")
    assert refused.code == 1
    assert f"cannot open the trace '{home}/t'" in refused.err


def test_the_daemon_packs_for_another_place(vine: Cluster, env: str) -> None:
    """It is written down, and where jobs see it."""
    image, place = "/home/vine1/placed.sqsh", "/run/vine/env/elsewhere"
    words = ["pack", env, "-o", image, "--force", "--prefix", f"{place}/", "--json"]
    assert document(cli(vine, *words, user="vine1"))["signed"] is True
    seen = document(cli(vine, "inspect", image, "--json", user="vine1"))
    assert (seen["prefix"], seen["env"]) == (place, "venv")
    script = 'echo "$VIRTUAL_ENV"; ls "$VIRTUAL_ENV"'
    result = vine.srun("-N1", "-w", "n1", f"--vine-env={image}", "sh", "-c", script)
    assert result.out.splitlines()[0] == place
    assert "unique" in result.out


CONDA_PACKED = """
cd && rm -rf packed && mkdir -p packed/bin packed/conda-meta && cd packed
printf '#!/bin/sh\necho /was/here\n' > bin/tool && chmod +x bin/tool
printf "\n_prefix_records = [\n('bin/tool', '/was/here', 'text')\n]\n" \\
    > bin/conda-unpack
tar -czf ../packed.tar.gz .
"""


def test_the_daemon_writes_the_place_into_files(vine: Cluster) -> None:
    vine.sh("n1", CONDA_PACKED, user="vine1")
    image, place = "/home/vine1/packed.sqsh", "/run/vine/env/moved"
    words = ["pack", "/home/vine1/packed.tar.gz", "-o", image, "--force", "--json"]
    done = document(cli(vine, *words, "--prefix", place, user="vine1"))
    assert (done["signed"], done["env"]) == (True, "conda-pack")
    result = vine.srun("-N1", "-w", "n1", f"--vine-env={image}", "tool")
    assert result.out.strip() == place


def test_an_archive_of_an_environment_tells_its_place(vine: Cluster, env: str) -> None:
    """A packed one appears there; as it is, an archive has the same place as ever."""
    archive, image = "/home/vine1/told.tar", "/home/vine1/told.sqsh"
    vine.sh("n1", f"tar -C {env} -cf {archive} .", user="vine1")
    words = ["pack", archive, "-o", image, "--force", "--json"]
    assert document(cli(vine, *words, user="vine1"))["env"] == "venv"
    seen = document(cli(vine, "inspect", image, "--json", user="vine1"))
    assert seen["prefix"] == env
    for source, place in ((image, env), (archive, "/run/vine/env/told")):
        words = [f"--vine-env={source}", "sh", "-c", 'echo "$VIRTUAL_ENV"']
        result = vine.srun("-N1", "-w", "n1", "--vine-fallback=fail", *words)
        assert result.out.strip() == place


# --- doctor -------------------------------------------------------------------------


def findings(result: Result) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for finding in document(result)["findings"]:
        found.setdefault(finding["what"], []).append(finding)
    return found


def fault(result: Result, what: str) -> dict[str, str]:
    assert result.code == 3, str(result)
    bad = [f for f in findings(result)[what] if f["level"] == "FAIL"]
    assert bad, result.out
    assert bad[0]["mend"]
    return bad[0]


def test_doctor_finds_no_fault_in_a_good_node(vine: Cluster) -> None:
    result = cli(vine, "doctor")
    assert result.code == 0, result.out
    assert " 0 faults" in result.out
    assert "FAIL" not in result.out


def with_config(vine: Cluster, change: str) -> Result:
    path = "/tmp/doctor.conf"
    vine.sh("n1", f"sed '{change}' /etc/vine-env/vine-env.conf > {path}")
    return cli(vine, "doctor", "--json", "--config", path)


def test_doctor_finds_a_cache_on_the_shared_file_system(vine: Cluster) -> None:
    vine.sh("n1", "install -d -m 755 /pfs/cli-cache")
    result = with_config(vine, "s,^cache_dir.*,cache_dir = /pfs/cli-cache,")
    assert "FUSE" in fault(result, "cache file system")["finding"]
    assert "755" in fault(result, "cache directory")["finding"]


def test_doctor_finds_a_wrong_line_and_a_wrong_manager(vine: Cluster) -> None:
    result = with_config(vine, "s,^cache_max.*,cache_max = lots,")
    assert "lots" in fault(result, "cache space")["finding"]
    result = with_config(vine, "s,^managers.*,managers = ctl:7,")
    assert "ctl:7" in fault(result, "manager")["finding"]
    result = with_config(vine, "s,^managers,managres,")
    assert "managres" in fault(result, "configuration")["finding"]


def test_doctor_finds_an_absent_plugin_line(vine: Cluster) -> None:
    path = "/etc/slurm/plugstack.conf"
    vine.sh("n1", f"cp {path} /tmp/plugstack.saved && echo '# none' > {path}")
    try:
        result = cli(vine, "doctor", "--json")
        assert "does not name" in fault(result, "plugstack.conf")["finding"]
        vine.sh("n1", f"echo 'required /no/vine_env.so' > {path}")
        result = cli(vine, "doctor", "--json")
        assert "/no/vine_env.so" in fault(result, "plugin file")["finding"]
        vine.sh("n1", f"echo 'required /tmp/vine_env.so' > {path}; "
                      "cp /bin/true /tmp/vine_env.so")  # fmt: skip
        fault(cli(vine, "doctor", "--json"), "plugin version")
    finally:
        vine.sh("n1", f"cp /tmp/plugstack.saved {path}")


def test_doctor_finds_an_absent_daemon_and_munged(vine: Cluster) -> None:
    vine.daemon("n2", "stop")
    result = cli(vine, "doctor", "--json", node="n2")
    assert "vined" in fault(result, "daemon")["mend"]
    vine.sh("n2", "mv /run/munge/munge.socket.2 /run/munge/away")
    try:
        result = cli(vine, "doctor", "--json", node="n2")
        assert "munge" in fault(result, "munge")["mend"]
    finally:
        vine.sh("n2", "mv /run/munge/away /run/munge/munge.socket.2")


def test_doctor_finds_a_readable_key(vine: Cluster) -> None:
    vine.sh("n1", "install -m 644 /etc/vine-env/image.key /tmp/key")
    result = with_config(vine, "s,^managers.*,&\\nimage_key = /tmp/key,")
    assert "644" in fault(result, "image key")["finding"]
