#!/usr/bin/python3
"""A vine-env for one node: `get` and `put` on a folder, answers and errors as the real.

FAKE_VINE: the folder. In it `calls` is written, and `error` may hold "CODE TEXT" that
each call is refused with, `lost` the names that are.
"""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from urllib.parse import quote

TOP = Path(os.environ["FAKE_VINE"])


def fail(code: str, text: str) -> None:
    print(f"vine-env {sys.argv[1]}: {text}", file=sys.stderr)
    print(json.dumps({"error": {"code": code, "text": quote(text, safe=" '/:,.")}}))
    raise SystemExit(1)


def options(words: list[str]) -> tuple[dict[str, str], list[str]]:
    end = words.index("--")
    known = {"--json": False, "--wait": True, "--replicas": True}
    found: dict[str, str] = {}
    rest = words[:end]
    while rest:
        word = rest.pop(0)
        found[word] = rest.pop(0) if known[word] else ""
    return found, words[end + 1 :]


def store(name: str) -> Path:
    return TOP / "named" / hashlib.sha256(name.encode()).hexdigest()


def get(source: str) -> dict[str, object]:
    kind, _, name = source.partition(":")
    origin = store(name) if kind == "vine" else Path(source)
    if kind == "vine" and name in (TOP / "lost").read_text().split():
        fail("elost", f"'{name}' is lost: the nodes of job 7 that had it are gone")
    if kind == "vine" and not origin.exists():
        fail("enoent", f"no task of job 7 has put '{name}'")
    if kind in ("sftp", "https"):
        origin = TOP / "server"
    if not origin.exists():
        fail("enoent", f"cannot open '{source}'")
    shown = TOP / "job" / "7" / os.path.basename(source)
    shown.parent.mkdir(parents=True, exist_ok=True)
    if origin.is_file():
        shutil.copy(origin, shown)
    path = quote(str(shown))
    return {"path": path, "digest": "0" * 64, "size": origin.stat().st_size}


def put(file: str, name: str) -> dict[str, object]:
    store(name).parent.mkdir(exist_ok=True)
    shutil.copy(file, store(name))
    return {"name": name, "replicas": 1}


def main() -> None:
    with (TOP / "calls").open("a") as calls:
        calls.write(" ".join(sys.argv[1:]) + "\n")
    if (TOP / "error").exists():
        code, _, text = (TOP / "error").read_text().partition(" ")
        fail(code, text)
    found, words = options(sys.argv[2:])
    answer = {"get": get, "put": put}[sys.argv[1]](*words)
    print(json.dumps(answer) if "--json" in found else answer)


main()
