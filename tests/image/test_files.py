"""Files of data: themselves, whatever their names, and of one moment."""

import os
from pathlib import Path

import pytest
from conftest import USER
from source import Source

DATA = ("--kind", "data")


def test_a_file_is_its_bytes_whatever_its_name(program: str, space: Path) -> None:
    for name in ("a", "a.sqsh", "a.tar.gz"):
        file = space / name
        file.write_bytes(b"hsqs" + os.urandom(300_000))
        with Source(program, str(file), 0, 0, "--key-first", *DATA) as source:
            event = source.event()
            assert (event["event"], event["kind"]) == ("resolved", "file")
            assert event["object_size"] == event["bytes"] == 300_004
            assert event["manifest_bytes"] == 0 and event["signature"] == ""
            source.send(cmd="copy", offset=0, length=300_004)
            assert source.read_bulk(300_004) == file.read_bytes()
            assert source.event() == {"event": "done", "bytes": 300_004}
            source.send(cmd="copy", offset=1, length=300_004)
            assert source.event()["code"] == "einval"
        with Source(program, str(file), 0, 0, *DATA) as source:
            assert source.event()["key"] == event["key"]
            source.send(cmd="build")
            assert source.event()["code"] == "einval"


def test_data_has_another_key_than_an_archive(program: str, space: Path) -> None:
    file = space / "a.tar"
    file.write_bytes(bytes(10240))
    keys = []
    for kind in ((), DATA):
        with Source(program, str(file), 0, 0, *kind) as source:
            keys.append(source.event()["key"])
    assert keys[0] != keys[1]


def test_a_directory_is_the_same_as_data(program: str, space: Path) -> None:
    (space / "dir").mkdir()
    (space / "dir" / "file").write_text("x")
    events = []
    for kind in ((), DATA):
        with Source(program, str(space / "dir"), 0, 0, *kind) as source:
            events.append(source.event())
    assert events[0] == events[1]
    assert events[0]["kind"] == "dir"


def test_what_is_no_file_is_refused(program: str, space: Path) -> None:
    os.mkfifo(space / "pipe")
    for path, code in ((space / "pipe", "einval"), ("/dev/null", "einval")):
        with Source(program, str(path), 0, 0, *DATA) as source:
            event = source.event()
            assert event["code"] == code
            assert "neither a directory nor a regular file" in event["text"]
    with Source(program, str(space / "none"), 0, 0, *DATA) as source:
        assert source.event()["code"] == "enoent"


def test_it_is_read_as_the_user(program: str, space: Path) -> None:
    file = space / "private"
    file.write_text("secret")
    file.chmod(0o600)
    with Source(program, str(file), USER, USER, *DATA) as source:
        event = source.event()
        assert event["code"] == "eacces"
        assert "Permission denied" in event["text"]
    os.chown(file, USER, USER)
    with Source(program, str(file), USER, USER, *DATA) as source:
        assert source.event()["kind"] == "file"


@pytest.mark.parametrize("change", ["grow", "shrink", "rewrite"])
def test_a_change_while_it_is_read(program: str, space: Path, change: str) -> None:
    file = space / "data"
    size = 6 << 20
    file.write_bytes(bytes(size))
    with Source(program, str(file), 0, 0, *DATA) as source:
        assert source.event()["kind"] == "file"
        source.send(cmd="copy", offset=0, length=size)
        source.read_bulk(1 << 20)  # the pipe holds the rest back
        with file.open("r+b") as out:
            if change == "shrink":
                out.truncate(2 << 20)
            else:
                out.seek(0, os.SEEK_END if change == "grow" else os.SEEK_SET)
                out.write(b"new")
        source.read_bulk(size - (1 << 20))  # ends early where the child does
        event = source.event()
        assert event["code"] == "echanged"
        assert "changed while it was read" in event["text"]
