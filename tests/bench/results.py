"""results.json: read, write, its medians. README.md documents the fields and units."""

from __future__ import annotations

import json
import statistics
from typing import Any

from common import OUTPUT

PATH = OUTPUT / "results.json"
FORMAT = 1
FIGURES = (
    "seconds",
    "seconds_to_first_task",
    "seconds_to_last_task",
    "import_seconds",
    "busy_seconds",
    "pfs_ops",
    "pfs_bytes",
    "peer_bytes",
    "link_bytes",
)
Key = tuple[str, int, str]  # way, nodes, workload


def empty() -> dict[str, Any]:
    return {"format": FORMAT, "link_bytes_per_s": [], "samples": []}


def load() -> dict[str, Any]:
    """What is there; nothing if there is none."""
    if not PATH.exists():
        return empty()
    found = json.loads(PATH.read_text())
    return found if found.get("format") == FORMAT else empty()


def medians(samples: list[dict[str, Any]]) -> dict[Key, dict[str, float]]:
    """The median of each figure over the rounds, and how many and how far apart."""
    groups: dict[Key, list[dict[str, Any]]] = {}
    for sample in samples:
        key = (sample["way"], sample["nodes"], sample["workload"])
        groups.setdefault(key, []).append(sample)
    return {key: of_group(group) for key, group in groups.items()}


def of_group(group: list[dict[str, Any]]) -> dict[str, float]:
    row: dict[str, float] = {
        name: statistics.median(sample[name] for sample in group) for name in FIGURES
    }
    seconds = [sample["seconds"] for sample in group]
    row |= {
        "rounds": len(group),
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
    }
    for phase in group[0]["phases"]:
        row[f"phase_{phase}"] = statistics.median(s["phases"][phase] for s in group)
    return row
