"""Archives become images without being unpacked; hostile ones are refused."""

import io
import os
import stat
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import mounted
from oddtree import Entry, describe_tree, differences, make_odd_tree
from source import Event, build

TAR_ENDINGS = {
    ".tar": [],
    ".tar.gz": ["--gzip"],
    ".tgz": ["--gzip"],
    ".tar.zst": ["--zstd"],
    ".tar.xz": ["--xz"],
    ".tar.bz2": ["--bzip2"],
}


def expected(tree: Path, archive: Path) -> dict[bytes, Entry]:
    """The tree as a user would have unpacked it: owned by the archive's owner."""
    entries = describe_tree(tree)
    s = archive.stat()
    for name, entry in entries.items():
        entries[name] = replace(entry, uid=s.st_uid, gid=s.st_gid)
    entries[b"."] = replace(entries[b"."], mode=0o755, mtime=int(s.st_mtime))
    return entries


@pytest.mark.parametrize("ending", TAR_ENDINGS)
def test_tars_arrive_as_they_are(program: str, space: Path, ending: str) -> None:
    tree, archive = space / "tree", space / f"env{ending}"
    make_odd_tree(tree, tiny=200, large_sparse=False)
    form = ["--format=gnu", "--sparse"] if ending == ".tar" else ["--format=pax"]
    subprocess.run(
        ["tar", *TAR_ENDINGS[ending], *form, "-C", str(tree), "-cf", str(archive), "."],
        check=True,
        env={**os.environ, "ZSTD_CLEVEL": "1", "XZ_OPT": "-0"},
    )
    os.chown(archive, 4711, 815)
    event = build(program, str(archive), str(space / "image"))
    assert event["event"] == "done", event
    with mounted(space / "image", space / "mnt") as mnt:
        assert differences(expected(tree, archive), describe_tree(mnt)) == []


def test_a_zip_arrives_as_it_is(program: str, space: Path) -> None:
    archive = space / "env.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("top/lib/x.py", "x = 1\n" * 1000)
        z.writestr("top/ümläut/日本", "utf-8")
        z.writestr("empty", "")
        info = zipfile.ZipInfo("top/bin/run", (2020, 2, 2, 2, 2, 2))
        info.external_attr = (stat.S_IFREG | 0o4755) << 16
        z.writestr(info, "#!/bin/sh\n")
        link = zipfile.ZipInfo("top/link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        z.writestr(link, "lib/x.py")
        z.writestr("pyvenv.cfg", "home = /usr/bin\n")
    event = build(program, str(archive), str(space / "image"))
    assert event["event"] == "done", event
    assert event["activate"] == "venv"
    assert event["entries"] == 10  # the directories it does not list too
    with mounted(space / "image", space / "mnt") as mnt:
        assert (mnt / "top/link").read_text() == "x = 1\n" * 1000
        assert (mnt / "top/ümläut/日本").read_text() == "utf-8"
        assert (mnt / "top/bin/run").stat().st_mode & 0o7777 == 0o755
        assert (mnt / "top").stat().st_mode & 0o7777 == 0o755


def test_the_second_pyvenv_cfg_counts(program: str, space: Path) -> None:
    """venv-pack writes it twice; a link to it shows the one before the link."""
    archive = space / "env.tar"

    def write(*members: tuple[str, bytes]) -> None:
        with tarfile.open(archive, "w") as tar:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                if name == "link":
                    info.type, info.linkname = tarfile.LNKTYPE, "pyvenv.cfg"
                tar.addfile(info, io.BytesIO(data))

    first, second = (
        ("pyvenv.cfg", b"home = /a\n"),
        ("./pyvenv.cfg", b"home = /longer\n"),
    )
    write(first, ("bin/x", b"x"), second)
    event = build(program, str(archive), str(space / "image"))
    assert (event["files"], event["source_bytes"]) == (2, 1 + len(second[1]))
    with mounted(space / "image", space / "mnt") as mnt:
        assert (mnt / "pyvenv.cfg").read_bytes() == second[1]
    write(first, ("link", b""), ("bin/x", b"x"))
    assert build(program, str(archive), str(space / "image"))["event"] == "done"
    with mounted(space / "image", space / "mnt") as mnt:
        assert (mnt / "link").read_bytes() == first[1]
        assert (mnt / "link").samefile(mnt / "pyvenv.cfg")
    for more in ([("link", b"")], [("pyvenv.cfg", b"x" * 100_000)]):
        write(first, *more, second)
        event = build(program, str(archive), str(space / "image"))
        assert (event["event"], event["code"]) == ("error", "einval")
        assert "its name is there twice" in event["text"]


def test_directories_may_come_late_or_twice(program: str, space: Path) -> None:
    archive = space / "env.tar"
    with tarfile.open(archive, "w") as t:
        file = tarfile.TarInfo("./a/b/file")
        t.addfile(file)
        for mode in (0o750, 0o700):
            directory = tarfile.TarInfo("a/b/")
            directory.type, directory.mode, directory.mtime = tarfile.DIRTYPE, mode, 77
            t.addfile(directory)
    event = build(program, str(archive), str(space / "image"))
    assert event["event"] == "done", event
    with mounted(space / "image", space / "mnt") as mnt:
        s = (mnt / "a" / "b").stat()
        assert (s.st_mode & 0o777, s.st_mtime) == (0o750, 77)
        assert (mnt / "a").stat().st_mode & 0o777 == 0o755


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


HOSTILE: dict[str, list[tarfile.TarInfo]] = {
    "absolute": [member("/etc/passwd")],
    "dot dot": [member("a/../../x")],
    "dot dot inside": [member("a/../x")],
    "below link": [member("l", tarfile.SYMTYPE, "/tmp"), member("l/x")],
    "below file": [member("f"), member("f/x")],
    "twice": [member("f"), member("./f")],
    "file and dir": [member("f"), member("f", tarfile.DIRTYPE)],
    "link out": [member("h", tarfile.LNKTYPE, "/etc/passwd")],
    "link up": [member("h", tarfile.LNKTYPE, "../../etc/passwd")],
    "link to later": [member("h", tarfile.LNKTYPE, "f"), member("f")],
    "link to dir": [member("d", tarfile.DIRTYPE), member("h", tarfile.LNKTYPE, "d")],
    "link to itself": [member("h", tarfile.LNKTYPE, "h")],
    "long part": [member("x" * 256)],
}


def refused(program: str, archive: Path, space: Path, *more: str) -> Event:
    event = build(program, str(archive), str(space / "image"), 0, 0, 0, *more)
    assert event["event"] == "error", event
    assert str(archive) in event["text"]
    return event


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_tars_are_refused(program: str, space: Path, what: str) -> None:
    archive = space / "env.tar"
    with tarfile.open(archive, "w") as t:
        for info in HOSTILE[what]:
            t.addfile(info)
    event = refused(program, archive, space)
    assert event["code"] == "einval"
    assert "entry" in event["text"]


def test_devices_are_left_out(program: str, space: Path) -> None:
    archive = space / "env.tar"
    with tarfile.open(archive, "w") as t:
        for kind in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
            t.addfile(member(f"device-{kind!r}", kind))
        t.addfile(member("file"))
    assert build(program, str(archive), str(space / "image"))["event"] == "done"
    with mounted(space / "image", space / "mnt") as mnt:
        assert [p.name for p in mnt.iterdir()] == ["file"]


def test_bombs_are_bounded(program: str, space: Path) -> None:
    archive = space / "env.tar.gz"
    with tarfile.open(archive, "w:gz") as t:
        info = tarfile.TarInfo("zeros")
        info.size = 50 << 20
        t.addfile(info, io.BytesIO(bytes(50 << 20)))
    event = refused(program, archive, space, "--max-bytes", str(20 << 20))
    assert event["code"] == "elimit"


def make_tar(path: Path, mode: str = "w") -> None:
    with tarfile.open(path, mode) as t:  # type: ignore[call-overload]
        for i in range(20):
            info = tarfile.TarInfo(f"file-{i}")
            info.size = 10_000
            t.addfile(info, io.BytesIO(os.urandom(10_000)))


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def cut_at_entry(data: bytes) -> bytes:
    return data[: (512 + 10_240) * 5]


def flip_header(data: bytes) -> bytes:
    at = (512 + 10_240) * 3 + 5
    return data[:at] + b"X" + data[at + 1 :]


@pytest.mark.parametrize("damage", [cut, cut_at_entry, flip_header])
def test_damaged_tars_are_refused(
    program: str, space: Path, damage: Callable[[bytes], bytes]
) -> None:
    archive = space / "env.tar"
    make_tar(archive)
    archive.write_bytes(damage(archive.read_bytes()))
    assert refused(program, archive, space)["code"] == "ecorrupt"


@pytest.mark.parametrize("form", ["gz", "bz2", "xz"])
def test_cut_compressed_tars_are_refused(program: str, space: Path, form: str) -> None:
    archive = space / f"env.tar.{form}"
    make_tar(archive, f"w:{form}")
    archive.write_bytes(cut(archive.read_bytes()))
    assert refused(program, archive, space)["code"] == "ecorrupt"


def test_a_zip_with_a_wrong_checksum_is_refused(program: str, space: Path) -> None:
    archive = space / "env.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as z:
        z.writestr("some/file", "content " * 1000)
    data = bytearray(archive.read_bytes())
    data[500] ^= 1
    archive.write_bytes(data)
    event = refused(program, archive, space)
    assert event["code"] == "ecorrupt"
    assert "some/file" in event["text"]


def test_something_else_is_refused(program: str, space: Path) -> None:
    for name, content in (
        ("a.zip", b"PK"),
        ("b.tar", os.urandom(5000)),
        ("c.tgz", b""),
    ):
        archive = space / name
        archive.write_bytes(content)
        assert refused(program, archive, space)["code"] == "ecorrupt"
