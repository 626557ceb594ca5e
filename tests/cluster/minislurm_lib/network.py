"""One bridge in a namespace of its own; each node is plugged into it by a veth pair.

Shaping limits a node in both directions: the pair's end in the node limits what it
sends, the end at the bridge what it receives.
"""

from __future__ import annotations

import re

from .commands import run
from .errors import MinislurmError
from .kernel import Process
from .layout import SWITCH, Layout, address

# Deep enough that a burst of large segments is not dropped: iperf3 reaches the rate.
SHAPER = "root tbf rate {rate} burst 256kb latency 50ms"


def _in_network(
    process: Process, program: str, lines: list[str], check: bool = True
) -> None:
    argv = ["nsenter", "-t", str(process.pid), "-n", program, "-batch", "-"]
    run(argv, text_in="\n".join(lines) + "\n", check=check)


def make_switch(layout: Layout) -> None:
    switch = layout.running(SWITCH)
    lines = ["link add br0 type bridge", "link set br0 up", "link set lo up"]
    _in_network(switch, "ip", lines)


def plug(layout: Layout, nodes: list[str]) -> None:
    switch = layout.running(SWITCH)
    lines = []
    for node in nodes:
        pid = layout.running(node).pid
        lines.append(f"link add name {node} type veth peer name eth0 netns {pid}")
        lines.append(f"link set {node} master br0 up")
    _in_network(switch, "ip", lines)
    for node in nodes:
        own = [
            f"address add {address(node)}/24 dev eth0",
            "link set eth0 up",
            "link set lo up",
        ]
        _in_network(layout.running(node), "ip", own)


def unplug(layout: Layout, node: str) -> None:
    """At once; the kernel itself takes its time after the death of a node."""
    _in_network(layout.running(SWITCH), "ip", [f"link del {node}"], check=False)


def check_rate(rate: str) -> str:
    if rate != "off" and not re.fullmatch(r"[0-9]+(\.[0-9]+)?[kmg]bit", rate):
        raise MinislurmError(f"bad rate '{rate}': want for example 400mbit, or off")
    return rate


def shape(layout: Layout, node: str, rate: str) -> None:
    check_rate(rate)
    for process, device in (
        (layout.running(node), "eth0"),
        (layout.running(SWITCH), node),
    ):
        _in_network(process, "tc", [f"qdisc del dev {device} root"], check=False)
        if rate != "off":
            line = f"qdisc add dev {device} {SHAPER.format(rate=rate)}"
            _in_network(process, "tc", [line])
    (layout.node_dir(node) / "rate").write_text(rate)


def recorded_rate(layout: Layout, node: str) -> str:
    path = layout.node_dir(node) / "rate"
    return path.read_text() if path.exists() else layout.settings().rate
