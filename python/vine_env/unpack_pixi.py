"""An environment from an archive of pixi-pack: `vine-env pack` starts this file.

    python3 unpack_pixi.py ARCHIVE TREE PREFIX

makes the directory TREE, and in TREE/env the environment, as it must be to appear at
PREFIX. py-rattler, the library that pixi itself installs with, does that from the
archive's own channel; `installer` puts wheels in. No network, no script of a package.

Standard output gets lines "PHASE DONE TOTAL" with bytes, while it works, and one at the
end: "ready", or "error CODE TEXT". TREE is there until
standard input ends, however who started this ended: a process of its own works, the
first one only waits, and removes TREE at the end. Needs nothing else of this package.
"""

import asyncio
import base64
import binascii
import errno
import hashlib
import io
import json
import os
import select
import shutil
import signal
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

HEADER_MAX = 64 << 10  # of a self-extracting archive, before its data
STEP = 1 << 20
TELL_SECONDS = 0.5
PACK_VERSION = "1"
INSTALL = "python3 -m pip install 'py-rattler>=0.28' installer"


class Refused(Exception):
    """What the user is to read. `code`: a word of vine-env's error codes."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Package:
    path: Path
    record: dict[str, Any]


class Progress:
    """What is said of a phase, now and then."""

    def __init__(self, phase: str, total: int) -> None:
        self.phase, self.total = phase, total
        self.done, self.told = 0, time.monotonic()

    def show(self, done: int) -> None:
        self.done = min(done, self.total)
        if time.monotonic() - self.told >= TELL_SECONDS:
            self.told = time.monotonic()
            print(self.phase, self.done, self.total, flush=True)


class Decoded(io.RawIOBase):
    """What lies as base64 in `file` from here to the next '@'."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.left, self.carry = file, b"", b""
        self.ended = False

    def readable(self) -> bool:
        return True

    def _more(self) -> bool:
        text = self.file.read(STEP)
        if not text:
            raise tarfile.ReadError("its end is missing")
        end = text.find(b"@")
        self.ended = end >= 0
        text = self.carry + (text[:end] if self.ended else text).translate(
            None, b"\r\n"
        )
        whole = len(text) - len(text) % 4
        self.carry = text[whole:]
        if self.ended and self.carry:
            raise tarfile.ReadError("its base64 is cut short")
        self.left = base64.b64decode(text[:whole], validate=True)
        return bool(self.left)

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401
        while not self.left and not self.ended and not self._more():
            pass
        part, self.left = self.left[: len(buffer)], self.left[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


def tar_in(file: BinaryIO) -> BinaryIO:
    """The tar in an archive, which is one or a script with one behind it."""
    head = file.read(HEADER_MAX)
    if not head.startswith(b"#!"):
        file.seek(0)
        return file
    mark = b"\n@@END_HEADER@@"
    at = head.find(mark)
    if at < 0:
        raise tarfile.ReadError("it is a script without an archive")
    file.seek(at + len(mark))
    return io.BufferedReader(Decoded(file), STEP)


def plain_name(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise Refused("einval", f"cannot use its entry '{name}': it leads outside")
    return path


def need_space(folder: Path, size: int, what: str) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise Refused(
            "enospc",
            f"{what} needs {size >> 20} MB in '{folder.parent}', {free >> 20} are "
            "free: set TMPDIR to another place",
        )


def extract(archive: str, folder: Path) -> None:
    """Files and directories only: pixi-pack puts nothing else in."""
    with open(archive, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        need_space(folder, size, "its content")
        progress = Progress("unpacking", size)
        with tarfile.open(fileobj=tar_in(file), mode="r|*") as tar:
            for member in tar:
                progress.show(file.tell())
                to = folder / plain_name(member.name)
                if member.isdir():
                    to.mkdir(parents=True, exist_ok=True)
                    continue
                data = tar.extractfile(member) if member.isfile() else None
                if data is None:
                    raise Refused(
                        "einval",
                        f"cannot use its entry '{member.name}': it is no file and no "
                        "directory",
                    )
                to.parent.mkdir(parents=True, exist_ok=True)
                with data, open(to, "xb") as out:
                    shutil.copyfileobj(data, out, STEP)


def read_json(path: Path, shown: str) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise Refused("ecorrupt", f"it is damaged: no good {shown}: {error}") from None
    if not isinstance(document, dict):
        raise Refused("ecorrupt", f"it is damaged: no good {shown}")
    return document


def check_metadata(folder: Path) -> dict[str, Any]:
    about = read_json(folder / "pixi-pack.json", "pixi-pack.json")
    if about.get("version") != PACK_VERSION:
        raise Refused(
            "einval",
            f"it is of version {about.get('version')!r} of pixi-pack's format: this "
            f"program knows {PACK_VERSION!r}",
        )
    machine = os.uname().machine
    here = {"x86_64": "linux-64"}.get(machine, f"linux-{machine}")
    if about.get("platform") != here:
        raise Refused(
            "einval",
            f"it was made for {about.get('platform')!r}, and this is {here!r}: pack "
            f"with 'pixi-pack --platform {here}'",
        )
    return about


def check_hash(path: Path, record: dict[str, Any], progress: Progress) -> None:
    wanted = record.get("sha256")
    if not isinstance(wanted, str):
        raise Refused("ecorrupt", f"its repodata.json has no SHA-256 of '{path.name}'")
    sha = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while data := file.read(STEP):
                sha.update(data)
                progress.show(progress.done + len(data))
    except FileNotFoundError:
        raise Refused("ecorrupt", f"it is damaged: '{path.name}' is missing") from None
    if sha.hexdigest() != wanted.lower():
        raise Refused(
            "ecorrupt",
            f"it is damaged: the SHA-256 of '{path.name}' is {sha.hexdigest()[:16]}...,"
            f" its repodata.json says {wanted[:16]}...",
        )


def packages_in(channel: Path) -> Iterator[Package]:
    """All that the channel's lists have; each file is what its list says."""
    files = [path for path in channel.glob("*/*") if path.is_file()]
    progress = Progress("checking", sum(path.stat().st_size for path in files))
    for listing in sorted(channel.glob("*/repodata.json")):
        shown = f"channel/{listing.parent.name}/repodata.json"
        repodata = read_json(listing, shown)
        for kind in ("packages", "packages.conda"):
            for name, record in sorted(repodata.get(kind, {}).items()):
                if "/" in name or not isinstance(record, dict):
                    raise Refused("einval", f"cannot use '{name}' in its {shown}")
                check_hash(listing.parent / name, record, progress)
                yield Package(listing.parent / name, record)


def import_rattler() -> Any:  # noqa: ANN401
    try:
        import rattler
    except ImportError as error:
        raise Refused(
            "einval",
            "it is an archive of pixi-pack, whose packages py-rattler installs, and "
            f"{sys.executable} has none ({error}): {INSTALL}",
        ) from None
    return rattler


def check_paths(package: Package, rattler: Any) -> int:  # noqa: ANN401
    """Bytes that it takes when it is installed."""
    size = 0
    for entry in rattler.PathsJson.from_package_archive(package.path).paths:
        path = PurePosixPath(entry.relative_path)
        if path.is_absolute() or ".." in path.parts:
            raise Refused(
                "einval", f"its package '{package.path.name}' has the path '{path}'"
            )
        size += entry.size_in_bytes or 0
    return size


def reporter(sizes: dict[str, int]) -> Any:  # noqa: ANN401
    """What rattler tells of its work: a package counts when it is linked."""
    from rattler.install import InstallerReporter

    progress = Progress("installing", sum(sizes.values()))
    under_way: list[int] = []

    class Reporter(InstallerReporter):
        def on_link_start(self, operation: int, package_name: str) -> int:
            under_way.append(sizes.get(package_name, 0))
            return len(under_way) - 1

        def on_link_complete(self, index: int) -> None:
            progress.show(progress.done + under_way[index])

    return Reporter()


def install(tree: Path, prefix: str, packages: list[Package]) -> None:
    rattler = import_rattler()
    channel = tree / "pack" / "channel"
    try:
        sizes = {
            str(package.record.get("name")): check_paths(package, rattler)
            for package in packages
        }
        size = sum(sizes.values())
        # Packages are unpacked, then linked; only files with a prefix are copied.
        need_space(tree, size + size // 4, "its environment")
        records = []
        for listing in sorted(channel.glob("*/repodata.json")):
            records += rattler.RepoData.from_path(listing).into_repo_data(
                rattler.Channel(channel.as_uri())
            )
        asyncio.run(
            rattler.install(
                records,
                tree / "env",
                cache_dir=tree / "cache",
                installed_packages=[],
                execute_link_scripts=False,
                show_progress=False,
                alternative_target_prefix=prefix,
                reporter=reporter(sizes),
            )
        )
    except (Refused, OSError):
        raise
    except Exception as error:  # rattler has a class for each of its parts
        words = " ".join(str(error).split())
        raise Refused("ecorrupt", f"cannot install its packages: {words}") from None


def install_wheels(tree: Path, prefix: str, packages: list[Package]) -> None:
    wheels = sorted((tree / "pack" / "pypi").glob("*"))
    if not wheels:
        return
    try:
        from installer import install as install_wheel
        from installer.destinations import SchemeDictionaryDestination
        from installer.sources import WheelFile
    except ImportError as error:
        raise Refused(
            "einval",
            f"it has wheels, which 'installer' installs, and {sys.executable} has none "
            f"({error}): {INSTALL}",
        ) from None
    pythons = [p.record for p in packages if p.record.get("name") == "python"]
    if not pythons:
        raise Refused("einval", "it has wheels, but no package 'python'")
    version = ".".join(str(pythons[0].get("version")).split(".")[:2])
    env, site = tree / "env", f"lib/python{version}/site-packages"
    places = {
        "purelib": site,
        "platlib": site,
        "scripts": "bin",
        "data": ".",
        "headers": f"include/python{version}",
    }
    to = SchemeDictionaryDestination(
        scheme_dict={kind: str(env / place) for kind, place in places.items()},
        interpreter=f"{prefix}/bin/python{version}",
        script_kind="posix",
    )
    for wheel in wheels:
        if wheel.suffix != ".whl":
            raise Refused("einval", f"its '{wheel.name}' is no wheel: pack wheels only")
        try:
            with zipfile.ZipFile(wheel) as names:
                for name in names.namelist():
                    plain_name(name)
            with WheelFile.open(wheel) as source:
                source.validate_record()
                install_wheel(source, to, {"INSTALLER": b"vine-env\n"})
        except (ValueError, KeyError, zipfile.BadZipFile, FileExistsError) as error:
            words = " ".join(str(error).split())
            raise Refused(
                "ecorrupt", f"cannot install its wheel '{wheel.name}': {words}"
            ) from None


def finish(tree: Path, about: dict[str, Any]) -> None:
    """No path of this directory stays in the environment, and nothing else in it."""
    env, meta = tree / "env", tree / "env" / "conda-meta"
    for path in meta.glob("*.json"):
        record = read_json(path, path.name)
        record.pop("extracted_package_dir", None)
        record.pop("link", None)
        text = json.dumps(record, indent=2)
        path.write_text(text.replace((tree / "pack").as_uri(), "file://"))
    meta.mkdir(exist_ok=True)
    (meta / "history").write_text("")  # 'conda run -p' asks for it
    (meta / "pixi").write_text(
        json.dumps(
            {
                "environment_name": "default",
                "pixi_pack_version": about.get("pixi-pack-version"),
            }
        )
    )
    (env / "CACHEDIR.TAG").unlink(missing_ok=True)
    env.chmod(0o755)
    shutil.rmtree(tree / "pack")
    shutil.rmtree(tree / "cache", ignore_errors=True)


def make(archive: str, tree: Path, prefix: str) -> None:
    (tree / "pack").mkdir()
    import_rattler()  # before the long work
    try:
        extract(archive, tree / "pack")
    except (tarfile.TarError, EOFError, binascii.Error, FileExistsError) as error:
        raise Refused("ecorrupt", f"it is damaged: {error}") from None
    about = check_metadata(tree / "pack")
    packages = list(packages_in(tree / "pack" / "channel"))
    if not packages:
        raise Refused("einval", "it has no packages in channel/")
    install(tree, prefix, packages)
    install_wheels(tree, prefix, packages)
    finish(tree, about)


def work(archive: str, tree: Path, prefix: str) -> str:
    """The line to say."""
    try:
        os.umask(0o022)
        make(archive, tree, prefix)
    except Refused as error:
        return f"error {error.code} {error}"
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return f"error {'enospc' if full else 'esys'} {error}"
    return "ready"


def ended(worker: int) -> bool:
    """Wait for the worker's end or for that of standard input: was it the worker's?"""
    handle = os.pidfd_open(worker)
    ready, _, _ = select.select([0, handle], [], [])
    os.close(handle)
    return handle in ready


def main(archive: str, tree: str, prefix: str) -> int:
    folder, result = Path(tree), 1
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        print(f"error esys cannot make a place to unpack it: {error}", flush=True)
        return 1
    worker = os.fork()
    if worker == 0:
        line = work(archive, folder, prefix)
        print(" ".join(line.split()), flush=True)
        os._exit(line != "ready")
    if ended(worker):
        result = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
        if result == 0:
            sys.stdin.buffer.read()
    else:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)
    shutil.rmtree(folder, ignore_errors=True)
    return result


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: unpack_pixi.py ARCHIVE TREE PREFIX (vine-env pack starts it)")
    sys.exit(main(*sys.argv[1:]))
