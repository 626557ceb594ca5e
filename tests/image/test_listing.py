"""What is as it was when the image before was made is not read: vine-source's part."""

import io
import os
import tarfile
import threading
from pathlib import Path

from conftest import USER
from source import Event, Source

MARK = "SCHILY.xattr.vine.same"
Members = dict[str, tuple[bool, bytes]]  # path -> marked as the same, content


def read_all(source: Source) -> tuple[bytes, Event]:
    """The tar, and the event after it."""
    parts: list[bytes] = []
    reader = threading.Thread(target=lambda: parts.append(source.read_bulk()))
    reader.start()
    event = source.event()
    reader.join()
    return parts[0], event


def members_of(tar: bytes) -> Members:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive:
            if member.isreg():
                file = archive.extractfile(member)
                assert file is not None
                marked = MARK in member.pax_headers
                found[member.name] = (marked, file.read())
    return found


def build(
    program: str, tree: Path, listing: Path, base: Path | None = None, uid: int = 0
) -> tuple[Members, Event]:
    """`listing` is written; `base` holds one, a few bytes from its beginning."""
    fds = [os.open(listing, os.O_RDWR | os.O_CREAT | os.O_TRUNC)]
    command: dict[str, int] = {}
    if base is not None:
        fds.append(os.open(base, os.O_RDONLY))
        command = {"base_offset": 0, "base_length": base.stat().st_size}
    with Source(program, str(tree), uid, uid) as source:
        assert source.event()["event"] == "resolved"
        source.send(fds, cmd="build", **command)
        tar, event = read_all(source)
    for fd in fds:
        os.close(fd)
    assert event["event"] == "done", event
    assert event["listing_bytes"] == listing.stat().st_size
    return members_of(tar), event


def make(tree: Path) -> None:
    (tree / "lib").mkdir(parents=True)
    for name, size in {"a": 10, "lib/b": 200_000, "lib/c": 5_000_000, "z": 1}.items():
        (tree / name).write_bytes(os.urandom(size))
    (tree / "empty").write_bytes(b"")
    (tree / "link").symlink_to("a")
    os.link(tree / "z", tree / "zz")
    with (tree / "sparse").open("wb") as file:
        file.truncate(6 << 20)
        file.write(b"x")
    for path in tree.rglob("*"):  # whole seconds, as archives leave them
        os.utime(path, (1_600_000_000, 1_600_000_000), follow_symlinks=False)


def test_what_is_the_same_is_marked_and_not_read(program: str, space: Path) -> None:
    tree, first, second = space / "tree", space / "first", space / "second"
    make(tree)
    members, event = build(program, tree, first)
    assert not any(marked for marked, _ in members.values())
    assert event["same_files"] == 0 and event["listing_bytes"] > 0
    contents = {name: content for name, (_, content) in members.items()}

    members, event = build(program, tree, second, first)
    assert event["same_files"] == 5
    assert event["same_bytes"] == 10 + 200_000 + 5_000_000 + 1 + (6 << 20)
    assert {name for name, (marked, _) in members.items() if marked} == {
        "a", "lib/b", "lib/c", "sparse", "z",
    }  # fmt: skip
    assert all(content == b"" for _, content in members.values())
    assert first.read_bytes() == second.read_bytes()

    (tree / "lib" / "b").write_bytes(contents["lib/b"][::-1])  # one file, same size
    (tree / "lib" / "new").write_bytes(b"new")
    (tree / "a").unlink()
    members, event = build(program, tree, second, first)
    assert members["lib/b"] == (False, contents["lib/b"][::-1])
    assert members["lib/new"] == (False, b"new")
    assert event["same_files"] == 3
    assert "a" not in members


def test_a_copy_moved_over_a_file_is_read(program: str, space: Path) -> None:
    """With the same name, size and mtime: it is another file."""
    tree, listing = space / "tree", space / "listing"
    make(tree)
    build(program, tree, listing)
    (space / "copy").write_bytes(b"0123456789")
    os.utime(space / "copy", (1_600_000_000, 1_600_000_000))
    os.replace(space / "copy", tree / "a")
    members, event = build(program, tree, space / "next", listing)
    assert members["a"] == (False, b"0123456789")
    assert event["same_files"] == 4


def test_a_damaged_listing_is_none(program: str, space: Path) -> None:
    tree, listing = space / "tree", space / "listing"
    make(tree)
    expected, _ = build(program, tree, listing)
    whole = listing.read_bytes()
    middle = len(whole) // 2
    for bad in (
        whole[:-1],
        whole[:middle],
        b"\0" * len(whole),
        whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :],
    ):
        listing.write_bytes(bad)
        members, event = build(program, tree, space / "next", listing)
        if event["same_files"] == 0:
            assert members == expected
        else:  # the changed byte is of one file's times: that one is read
            assert event["same_files"] < 5
        assert (space / "next").read_bytes() == whole


def test_a_change_of_what_is_the_same_is_noticed(program: str, space: Path) -> None:
    """After the walk; the file is not opened at all."""
    tree, listing = space / "tree", space / "listing"
    make(tree)
    build(program, tree, listing)
    with Source(program, str(tree)) as source, listing.open("rb") as base:
        assert source.event()["event"] == "resolved"
        (tree / "a").write_bytes(b"9876543210")
        out = os.memfd_create("listing")
        length = listing.stat().st_size
        source.send(
            [out, base.fileno()], cmd="build", base_offset=0, base_length=length
        )
        os.close(out)
        _, event = read_all(source)
    assert event["event"] == "error" and event["code"] == "echanged"
    assert str(tree / "a") in event["text"]


def test_who_may_read_all_of_it_is_told(program: str, space: Path) -> None:
    tree = space / "tree"
    make(tree)
    for path in (tree, tree / "lib"):
        path.chmod(0o755)

    def everybody() -> bool:
        with Source(program, str(tree), USER, USER) as source:
            event = source.event()
            assert event["event"] == "resolved", event
            return bool(event["everybody"])

    assert everybody()
    os.chown(tree / "a", USER, USER)
    (tree / "a").chmod(0o600)
    assert not everybody()
