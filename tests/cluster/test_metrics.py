"""GET /metrics of node daemon and manager, read by promtool and a real Prometheus."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from environments import make_environment, make_image

CONF = "/etc/vine-env/vine-env.conf"
NODE = "n2"
PORTS = {"ctl": 7113, NODE: 7112}
ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "contrib/grafana/vine-env.json"
ASK = """
import sys, urllib.error, urllib.request
request = urllib.request.Request(sys.argv[1], method=sys.argv[2])
try:
    answer = urllib.request.urlopen(request, timeout=10)
except urllib.error.HTTPError as error:
    answer = error
print(answer.status)
print(answer.read().decode(), end="")
"""


def ask(vine: Cluster, node: str, path: str = "/metrics", method: str = "GET"):
    """Status and text, from inside that node."""
    url = f"http://127.0.0.1:{PORTS[node]}{path}"
    said = vine.run(node, "/usr/bin/python3", "-c", ASK, url, method).checked().out
    status, _, text = said.partition("\n")
    return int(status), text


def figures(vine: Cluster, node: str) -> dict[str, float]:
    status, text = ask(vine, node)
    assert status == 200
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
    return {name: float(value) for name, value in pairs}


def configure(vine: Cluster, node: str, value: str) -> None:
    section = "manager" if node == "ctl" else "node"
    line = f"s/^\\[{section}\\]/&\\nmetrics = {value}/"
    vine.sh(node, f"sed -i '{line}' {CONF}")


@pytest.fixture
def watched(vine: Cluster) -> Iterator[Cluster]:
    """The manager and NODE with figures for Prometheus."""
    before = {node: vine.sh(node, f"cat {CONF}") for node in PORTS}
    for node, port in PORTS.items():
        configure(vine, node, f"127.0.0.1:{port}")
        vine.restart_daemon(node)
    yield vine
    for node, text in before.items():
        (vine.root(node) / CONF[1:]).write_text(text)
        vine.restart_daemon(node)
    up = lambda: all(vine.status(n)["node"]["manager_up"] for n in vine.nodes)  # noqa: E731
    vine.wait_for(up, 20, "the nodes to find the manager")


def checked_by_promtool(text: str) -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True
    )
    assert done.returncode == 0 and not done.stderr, done.stderr + done.stdout


def test_figures_are_what_happened(watched: Cluster) -> None:
    vine = watched
    env = make_environment(vine, ballast_bytes=5 << 20)
    image, size = make_image(vine, env)
    vine.evict_all()
    vine.run("n1", "vine-env", "stage", image, user="vine1").checked()
    before = figures(vine, NODE)
    vine.shape(NODE, "20mbit")  # the prolog's start is not enough: the step waits
    vine.srun("-N1", "-w", NODE, f"--vine-env={image}", env.script)
    after = figures(vine, NODE)

    def grown(name: str) -> float:
        return after[name] - before[name]

    # The file's trailer does not travel.
    came = grown('vine_received_bytes_total{from="peer"}')
    assert [o["state"] for o in vine.status(NODE)["objects"] if o["size"] == came] == [
        "complete"
    ]
    assert size * 0.99 < came <= size
    assert grown('vine_received_bytes_total{from="origin"}') == 0
    assert grown('vine_sources_total{result="ok"}') >= 1
    assert grown("vine_waits_total") >= 1
    assert grown("vine_wait_seconds_total") > 0
    assert grown('vine_objects{state="complete"}') == 1
    assert grown("vine_store_bytes") >= came
    assert after["vine_manager_up"] == 1
    assert after["process_resident_memory_bytes"] > 1 << 20
    # NODE is the only one with figures; it serves another.
    vine.run("n1", "vine-env", "evict", "--all").checked()
    vine.run("n1", "vine-env", "stage", image, user="vine1").checked()
    assert figures(vine, NODE)["vine_served_bytes_total"] >= came
    cluster = figures(vine, "ctl")
    assert cluster["vine_nodes"] == len(vine.nodes)
    assert cluster["vine_copies"] >= 2
    assert cluster['vine_messages_total{direction="in"}'] > 0


def test_promtool_finds_nothing_wrong(watched: Cluster) -> None:
    for node in PORTS:
        checked_by_promtool(ask(watched, node)[1])


def test_only_what_is_meant_is_answered(watched: Cluster) -> None:
    assert ask(watched, NODE, "/")[0] == 404
    assert ask(watched, NODE, "/metrics/../status")[0] == 404
    assert ask(watched, NODE, method="POST")[0] == 405
    # Nothing of users, jobs or paths, whatever was staged.
    env = make_environment(watched)
    watched.srun("-N1", "-w", NODE, f"--vine-env={env.path}", env.script)
    for node in PORTS:
        text = ask(watched, node)[1]
        assert "/pfs" not in text and "vine1" not in text


def test_the_dashboard_asks_for_what_there_is(watched: Cluster) -> None:
    there = {
        line.split()[2]
        for node in PORTS
        for line in ask(watched, node)[1].splitlines()
        if line.startswith("# TYPE")
    }
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = {
        name
        for panel in panels
        for target in panel["targets"]
        for name in re.findall(r"\b(?:vine|process)_\w+", target["expr"])
    }
    assert asked and asked <= there


def test_prometheus_takes_them_and_the_dashboards_questions(
    watched: Cluster,
) -> None:
    """Every expression of the dashboard has an answer in a real Prometheus."""
    port = 9095
    folder = "/tmp/prometheus"
    config = watched.root("ctl") / folder[1:] / "prometheus.yml"
    config.parent.mkdir(exist_ok=True)
    targets = [f"127.0.0.1:{PORTS['ctl']}"]
    config.write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "1s"},
                "scrape_configs": [
                    {"job_name": "vine-env", "static_configs": [{"targets": targets}]}
                ],
            }
        )
    )
    prometheus = watched.popen(
        "ctl",
        *("prometheus", f"--config.file={folder}/{config.name}"),
        *(
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ),
    )

    def query(expression: str) -> dict:
        words = ["promtool", "query", "instant", "-o", "json"]
        words += [f"http://127.0.0.1:{port}", expression]
        done = watched.run("ctl", *words, check=False)
        return json.loads(done.out) if done.code == 0 and done.out.strip() else {}

    try:
        nodes = lambda: query("vine_nodes")  # noqa: E731
        (sample,) = watched.wait_for(nodes, 30, "Prometheus to have a figure")
        assert float(sample["value"][1]) == len(watched.nodes)
        for panel in json.loads(DASHBOARD.read_text())["panels"]:
            for target in panel["targets"]:
                words = ["promtool", "query", "instant"]
                words += [f"http://127.0.0.1:{port}", target["expr"]]
                watched.run("ctl", *words).checked()
    finally:
        prometheus.kill()


def test_a_bad_address_is_told_and_harms_nobody(watched: Cluster) -> None:
    for value, reason in (
        ("somewhere:7112", "not an address"),
        ("192.0.2.1:7112", "is the port taken"),
    ):
        watched.sh(NODE, f"sed -i 's/^metrics = .*/metrics = {value}/' {CONF}")
        watched.restart_daemon(NODE)
        lines = watched.log(NODE).splitlines()
        told = [line for line in lines if "event=metrics-refused" in line]
        assert value in told[-1] and reason in told[-1]
        assert watched.status(NODE)["node"]["name"] == NODE
