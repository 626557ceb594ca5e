"""Small conda packages, and archives as pixi-pack makes them of such.

A "python" whose bin/python3.11 is the test's own interpreter behind a script, a library
that has its prefix in a binary file and in a text file, and a noarch package with an
entry point: one of each kind of work that installing is.
"""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PLATFORM = {"x86_64": "linux-64", "aarch64": "linux-aarch64"}[os.uname().machine]
PLACEHOLDER = "/home/builder/placehold_" + "placehold_" * 12
TIME = 1_700_000_000


@dataclass
class Package:
    name: str
    version: str
    subdir: str
    files: dict[str, bytes]
    modes: dict[str, int] = field(default_factory=dict)
    placeholders: dict[str, str] = field(default_factory=dict)  # path: text|binary
    depends: list[str] = field(default_factory=list)
    entry_points: list[str] = field(default_factory=list)  # then it is noarch: python
    python: bool = False
    paths: dict[str, str] = field(default_factory=dict)  # told instead of the real ones

    @property
    def stem(self) -> str:
        return f"{self.name}-{self.version}-0"

    def index(self) -> dict[str, Any]:
        index: dict[str, Any] = {
            "name": self.name,
            "version": self.version,
            "build": "0",
            "build_number": 0,
            "depends": self.depends,
            "subdir": self.subdir,
            "timestamp": TIME * 1000,
        }
        if self.entry_points:
            index["noarch"] = "python"
        return index

    def info(self) -> dict[str, bytes]:
        paths = []
        for path, data in self.files.items():
            entry: dict[str, Any] = {
                "_path": self.paths.get(path, path),
                "path_type": "hardlink",
                "sha256": hashlib.sha256(data).hexdigest(),
                "size_in_bytes": len(data),
            }
            if path in self.placeholders:
                entry["file_mode"] = self.placeholders[path]
                entry["prefix_placeholder"] = PLACEHOLDER
            paths.append(entry)
        info: dict[str, Any] = {
            "info/index.json": self.index(),
            "info/paths.json": {"paths": paths, "paths_version": 1},
        }
        if self.entry_points:
            info["info/link.json"] = {
                "noarch": {"type": "python", "entry_points": self.entry_points},
                "package_metadata_version": 1,
            }
        return {path: json.dumps(value).encode() for path, value in info.items()}

    def tar(self, files: dict[str, bytes]) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for path, data in sorted(files.items()):
                member = tarfile.TarInfo(path)
                member.size, member.mtime = len(data), TIME
                member.mode = self.modes.get(path, 0o644)
                tar.addfile(member, io.BytesIO(data))
        return buffer.getvalue()

    def write(self, folder: Path, ending: str) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.stem}{ending}"
        if ending == ".tar.bz2":
            import bz2

            path.write_bytes(bz2.compress(self.tar({**self.info(), **self.files})))
            return path
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("metadata.json", '{"conda_pkg_format_version": 2}')
            for part, files in (("pkg", self.files), ("info", self.info())):
                packed = subprocess.run(
                    ["zstd", "-q", "-c"],
                    input=self.tar(files),
                    capture_output=True,
                    check=True,
                ).stdout
                file.writestr(f"{part}-{self.stem}.tar.zst", packed)
        return path


def packages() -> dict[str, Package]:
    prefix = PLACEHOLDER.encode()
    stub = f'#!/bin/sh\nexec {sys.executable} "$@"\n'.encode()
    python = Package(
        "python",
        "3.11.9",
        PLATFORM,
        {
            "bin/python3.11": stub,
            "bin/python": stub,
            "lib/python3.11/json/decoder.py": b"x = 1\n" * 1_000,
        },
        modes={"bin/python3.11": 0o755, "bin/python": 0o755},
    )
    library = Package(
        "libgreet",
        "1.2",
        PLATFORM,
        {
            "lib/libgreet.so": b"\x7fELF\0" + prefix + b"/share/greet\0tail\0" * 3,
            "bin/greet-config": b"#!" + prefix + b"/bin/python\nprefix=" + prefix,
            "share/greet/words": b"hello\n",
        },
        modes={"bin/greet-config": 0o755},
        placeholders={"lib/libgreet.so": "binary", "bin/greet-config": "text"},
    )
    greet = Package(
        "greet",
        "0.3",
        "noarch",
        {"site-packages/greet/__init__.py": b"def main():\n    print('hello')\n"},
        depends=["python >=3.8", "libgreet"],
        entry_points=["greet = greet:main"],
    )
    return {p.name: p for p in (python, library, greet)}


def write_channel(
    root: Path, made: dict[str, Package], endings: dict[str, str] | None = None
) -> None:
    """channel/SUBDIR/*.conda and its repodata.json, below `root`."""
    subdirs: dict[str, dict[str, Any]] = {}
    for package in made.values():
        ending = (endings or {}).get(package.name, ".conda")
        path = package.write(root / "channel" / package.subdir, ending)
        data = path.read_bytes()
        record = {
            **package.index(),
            "md5": hashlib.md5(data).hexdigest(),
            "sha256": hashlib.sha256(data).hexdigest(),
            "size": len(data),
        }
        repodata = subdirs.setdefault(
            package.subdir,
            {
                "info": {"subdir": package.subdir},
                "packages": {},
                "packages.conda": {},
                "removed": [],
                "repodata_version": 2,
            },
        )
        kind = "packages.conda" if ending == ".conda" else "packages"
        repodata[kind][path.name] = record
    for subdir, repodata in subdirs.items():
        text = json.dumps(repodata)
        (root / "channel" / subdir / "repodata.json").write_text(text)


def write_pack(root: Path, made: dict[str, Package], **metadata: str) -> None:
    """All that goes into an archive of pixi-pack, in the directory `root`."""
    write_channel(root, made, {"libgreet": ".tar.bz2"})
    about = {"version": "1", "pixi-pack-version": "0.7.2", "platform": PLATFORM}
    (root / "pixi-pack.json").write_text(json.dumps({**about, **metadata}))
    names = "".join(f"- {p.name}={p.version}\n" for p in made.values())
    (root / "environment.yml").write_text(f"dependencies:\n{names}")


def tar_pack(root: Path, archive: Path) -> Path:
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted(root.rglob("*")):
            tar.add(path, str(path.relative_to(root)), recursive=False)
    return archive
