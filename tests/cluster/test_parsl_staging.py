"""VineStaging: Files of real Parsl tasks, by way of the nodes' disks."""

from __future__ import annotations

import json
import sysconfig
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, Running, wait_for
from environments import moved, totals
from parsl_user import USER, install_packages, result_of, start_script
from servers import serving
from test_data import content, make_file

REPO = Path(__file__).resolve().parents[2]
FILES = f"/pfs/home/{USER}/files"
MIB = 1 << 20
SIZE = 4 * MIB


@pytest.fixture(scope="module")
def packages(cluster: Cluster) -> str:
    return install_packages(cluster)


def start(vine: Cluster, packages: str, way: str, **wish: Any) -> Running:
    words = [way, json.dumps(wish)]
    return start_script(vine, packages, "parsl_files.py", *words)


def said(script: Running, number: int) -> dict[str, Any]:
    """Its next JSON document, once it is there."""

    def line() -> str | None:
        lines = script.out.split("\n")[:-1]
        assert not script.ended or len(lines) > number, script.wait(1)
        return lines[number] if len(lines) > number else None

    found: dict[str, Any] = json.loads(wait_for(line, 120, "the script's next word"))
    return found


def test_shared_inputs_are_read_once(vine: Cluster, packages: str) -> None:
    vine.evict_all()
    paths = [f"{FILES}/shared/input-{n}.bin" for n in range(3)]
    digests = [make_file(vine, p, content(SIZE, n)) for n, p in enumerate(paths)]
    vine.pfs_drop_caches()
    vine.pfs_zero()
    found = result_of(
        start(
            vine,
            packages,
            "share",
            nodes=8,
            workers=2,
            tasks=200,
            inputs=[*paths[:2], f"vine://{paths[2]}"],
            seconds=0.05,
            staging={"prefixes": [f"{FILES}/"]},
        )
    )
    assert len(found["tasks"]) == 200
    assert len({task["node"] for task in found["tasks"]}) == 8
    for task in found["tasks"]:
        assert [digest for _, digest in task["files"]] == digests, task
        for shown, path in zip(task["files"], paths, strict=True):
            assert shown[0].startswith("/run/vine/job/")
            assert Path(shown[0]).name == Path(path).name
    assert 3 * SIZE <= vine.pfs_counters()["bytes_read"] <= 1.05 * 3 * SIZE
    assert [line for line in found["doctor"] if line[:3] != "ok:"] == []


def test_a_task_reads_from_the_disk_of_another_node(
    vine: Cluster, packages: str
) -> None:
    vine.evict_all()
    before = totals(vine)
    vine.pfs_zero()
    script = start(
        vine,
        packages,
        "chain",
        nodes=4,
        tasks=16,
        bytes=SIZE,
        top=f"vine://{FILES}/never-there",
        staging={},
    )
    found = result_of(script)
    made = said(script, 1)
    assert not made["place"].startswith("/pfs")
    nodes = set()
    for task in found["tasks"]:
        (shown,) = task["files"]
        assert shown[0].startswith("/run/vine/job/")
        assert shown[1] == made["digest"]
        nodes.add(task["node"])
    others = nodes - {made["node"]}
    assert others
    assert moved(before, totals(vine))["bytes_peer"] >= len(others) * SIZE
    counters = vine.pfs_counters()
    assert counters["bytes_read"] + counters["bytes_written"] < MIB


def crash_between(
    vine: Cluster, packages: str, staging: dict[str, Any]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the first task made on a node that is gone then; what the others got."""
    vine.run("n1", "rm", "-rf", f"{FILES}/crash", user=USER)
    go = vine.layout.home / USER / "go"
    go.unlink(missing_ok=True)
    script = start(
        vine,
        packages,
        "chain",
        nodes=4,
        options="-x n1",
        tasks=8,
        bytes=MIB,
        retries=3,
        top=f"vine://{FILES}/crash",
        staging=staging,
        go=f"/home/{USER}/go",
    )
    made = said(script, 1)
    vine.crash(made["node"])
    go.touch()
    rows = result_of(script, 240)["tasks"]
    assert made["node"] not in {task.get("node") for task in rows}
    return made, rows


def test_a_second_copy_outlives_the_node_that_made_it(
    vine: Cluster, packages: str
) -> None:
    made, rows = crash_between(vine, packages, {"replicas": 2})
    for task in rows:
        (shown,) = task["files"]
        assert shown[0].startswith("/run/vine/job/")
        assert shown[1] == made["digest"]
    vine.run("n1", "test", "!", "-e", f"{FILES}/crash", user=USER)


def test_what_was_copied_back_is_read_from_there(vine: Cluster, packages: str) -> None:
    made, rows = crash_between(vine, packages, {"copy_back": True})
    path = made["url"].removeprefix("vine://")
    kept = vine.run("n1", "sha256sum", path, user=USER).out.split()[0]
    assert kept == made["digest"]
    for task in rows:
        assert [digest for _, digest in task["files"]] == [made["digest"]]


def test_what_is_lost_with_its_node_is_said_to_be(vine: Cluster, packages: str) -> None:
    made, rows = crash_between(vine, packages, {})
    name = made["url"].removeprefix("vine:///")
    assert {task["error"] for task in rows} == {"LostFileError"}
    for task in rows:
        assert task["text"].startswith(f"cannot get '{made['url']}': '{name}' is lost")
        assert "copy_back=True" in task["text"]


def test_tasks_read_a_file_of_a_server(
    vine: Cluster, packages: str, tmp_path: Path
) -> None:
    with serving(vine, "n1", tmp_path) as servers:
        name = f"{servers.folder}/numbers.txt"
        vine.sh("n1", f"seq 200000 > {name} && chmod 644 {name}")
        digest = vine.run("n1", "sha256sum", name).out.split()[0]
        found = result_of(
            start(
                vine,
                packages,
                "share",
                nodes=2,
                options="-x n1",
                tasks=16,
                inputs=[f"vine+{servers.sftp('numbers.txt')}"],
                seconds=0.1,
                staging={},
            )
        )
        assert 1 <= servers.logins() <= 2  # one a worker, at most
    for task in found["tasks"]:
        ((place, content_digest),) = task["files"]
        assert content_digest == digest, task
        assert place.startswith("/run/vine/job/") and place.endswith("/numbers.txt")


def test_without_daemons_the_shared_file_system_serves(
    vine: Cluster, packages: str
) -> None:
    data = f"{FILES}/plain.bin"
    digest = make_file(vine, data, content(MIB, 4))
    for node in vine.nodes:
        vine.daemon(node, "stop")
    script = start(
        vine,
        packages,
        "share",
        nodes=2,
        tasks=4,
        inputs=[data],
        seconds=0.1,
        staging={"prefixes": [FILES]},
    )
    for task in result_of(script)["tasks"]:
        assert task["files"] == [[data, digest]]
    logs = sorted((vine.layout.home / USER / "parsl-runs").rglob("*.stderr"))
    assert "tasks use the shared file system instead" in logs[-1].read_text()
    for node in vine.nodes:
        vine.daemon(node, "start")


def make_flow_environment(vine: Cluster, path: str, packages: str) -> None:
    """As the manual makes it, but for where packages come from."""
    vine.sh("n1", f"rm -rf {path} && python3 -m venv --without-pip {path}", user=USER)
    programs = Path(sysconfig.get_path("scripts"))
    for name in ("interchange.py", "process_worker_pool.py"):
        code = (programs / name).read_text().partition("\n")[2]
        made = vine.layout.home / USER / name
        made.write_text(f"#!{path}/bin/python\n{code}")
        made.chmod(0o755)
        vine.run("n1", "cp", f"/home/{USER}/{name}", f"{path}/bin", user=USER)
    site = f"{path}/lib/python3*/site-packages"
    vine.sh("n1", f"echo {packages} > $(echo {site})/vine_env.pth", user=USER)


def test_the_workflow_of_the_manual(vine: Cluster, packages: str) -> None:
    top = f"/pfs/home/{USER}/manual"
    make_flow_environment(vine, f"{top}/envs/flow", packages)
    page = (REPO / "PARSL.md").read_text()
    script = page.partition("```python\n")[2].partition("```\n")[0]
    script = script.replace("/shared/", f"{top}/")
    folder = vine.layout.home / USER / "manual"
    folder.mkdir(exist_ok=True)
    (folder / "letters.py").write_text(script)
    at = f"/home/{USER}/manual"
    vine.run("n1", "chown", "-R", f"{USER}:{USER}", at)
    run = (
        f"mkdir -p {top}/flow && seq 200000 > {top}/flow/text.txt && cd {at} && "
        f"source {top}/envs/flow/bin/activate && python letters.py && "
        f"cat {top}/flow/total.json"
    )
    lines = vine.sh("n1", run, user=USER, timeout=180).splitlines()
    assert [line[:4] for line in lines[:4]] == ["ok: "] * 4
    for number, line in enumerate(lines[4:12]):
        assert line.startswith(f"share {number} on n")
        assert " from /run/vine/job/" in line and line.endswith("/text.txt")
    assert lines[12].startswith("added on n") and lines[12].endswith("/0.json")
    text = "".join(f"{n}\n" for n in range(1, 200001))
    assert json.loads(lines[13]) == Counter(text)
    assert len(lines) == 14
