"""Environments as conda makes them, without conda."""

import json
from pathlib import Path

PYTHON = "lib/python3.11"
SITE = f"{PYTHON}/site-packages"

# package -> version, {file: size}
PACKAGES: dict[str, tuple[str, dict[str, int]]] = {
    "python": (
        "3.11.9",
        {"bin/python3.11": 60_000, f"{PYTHON}/json/decoder.py": 9_000},
    ),
    "mkl": ("2024.0", {"lib/libmkl_core.so.2": 800_000}),
    "numpy": (
        "2.1.0",
        {f"{SITE}/numpy/__init__.py": 100, f"{SITE}/numpy/c.so": 300_000},
    ),
}


def make_conda(prefix: Path) -> None:
    """A prefix with conda-meta; and what pip put beside it, which no list names."""
    for name, (version, files) in PACKAGES.items():
        for path, size in files.items():
            (prefix / path).parent.mkdir(parents=True, exist_ok=True)
            (prefix / path).write_bytes(name.encode() * (size // len(name)))
        meta = prefix / "conda-meta" / f"{name}-{version}-0.json"
        meta.parent.mkdir(exist_ok=True)
        meta.write_text(
            json.dumps({"name": name, "version": version, "files": [*files]})
        )
    (prefix / "conda-meta" / "history").write_text("==> 2026-01-01 <==\n")
    pip = prefix / SITE / "six.py"
    pip.write_bytes(b"x = 1\n" * 5_000)


def file_bytes(prefix: Path) -> tuple[int, int]:
    sizes = [p.stat().st_size for p in prefix.rglob("*") if p.is_file()]
    return len(sizes), sum(sizes)
