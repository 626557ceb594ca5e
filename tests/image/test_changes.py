"""A source that changes while it is read gives an error, never a mix."""

import os
import threading
from pathlib import Path

import pytest
from conftest import mounted
from oddtree import describe_tree, differences
from source import Source, build


def make(tree: Path, files: int = 40, size: int = 1 << 20) -> None:
    tree.mkdir()
    for i in range(files):
        (tree / f"{i:03}").write_bytes(os.urandom(size))
    (tree / "empty").write_bytes(b"")
    (tree / "zz-dir").mkdir()


def touch_again(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


@pytest.mark.parametrize(
    "change",
    [
        lambda t: touch_again(t / "039"),
        lambda t: (t / "039").write_bytes(b"short"),
        lambda t: (t / "039").unlink(),
        lambda t: (t / "new").write_text("x"),
        lambda t: (t / "zz-dir" / "new").write_text("x"),
        lambda t: (t / "empty").write_text("x"),
        lambda t: (t / "039").chmod(0o600),
        lambda t: (t / "zz-dir").chmod(0o700),
        lambda t: os.replace(t / "038", t / "039"),
    ],
)
def test_a_change_before_the_end_is_noticed(program, space, change) -> None:
    tree = space / "tree"
    make(tree, 200)  # more than the child reads ahead
    with Source(program, str(tree)) as source:
        assert source.event()["event"] == "resolved"
        change(tree)
        source.send(cmd="build")
        source.read_bulk()
        event = source.event()
    assert event["event"] == "error", event
    assert event["code"] == "echanged"
    assert str(tree) in event["text"]


def test_a_change_in_the_middle_is_noticed(program: str, space: Path) -> None:
    tree = space / "tree"
    make(tree, 200)
    with Source(program, str(tree)) as source:
        source.event()
        source.send(cmd="build")
        source.read_bulk(20 << 20)
        touch_again(tree / "199")
        source.read_bulk()
        event = source.event()
    assert event.get("code") == "echanged"


def test_what_was_read_before_a_change_is_whole(program: str, space: Path) -> None:
    """A file that changes after it was read: the image has it as it was, and everything
    else as it was then."""
    tree, image = space / "tree", space / "image"
    make(tree)
    before = describe_tree(tree)
    assert build(program, str(tree), str(image))["event"] == "done"
    touch_again(tree / "000")
    with mounted(image, space / "mnt") as mnt:
        assert differences(before, describe_tree(mnt)) == []


def test_under_constant_change_an_image_is_never_a_mix(
    program: str, space: Path
) -> None:
    """Two files always get the same content one after the other: in no image may the
    second be newer than the first. Each is written in one call: in no moment, however
    long the writer sleeps in it, is a file empty."""
    tree = space / "tree"
    make(tree, 30, 200_000)
    stop = threading.Event()

    def writer() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            for fd in files:
                os.pwrite(fd, b"%020d" % turn, 0)
            stop.wait(0.02)

    files = [
        os.open(tree / name, os.O_CREAT | os.O_WRONLY, 0o644)
        for name in ("a-first", "z-second")
    ]
    for fd in files:
        os.pwrite(fd, b"%020d" % 0, 0)
    thread = threading.Thread(target=writer)
    thread.start()
    results = []
    try:
        for i in range(12):
            image = space / f"image-{i}"
            event = build(program, str(tree), str(image))
            results.append(event["event"])
            if event["event"] != "done":
                assert event["code"] == "echanged", event
                continue
            with mounted(image, space / "mnt") as mnt:
                first = (mnt / "a-first").read_text()
                second = (mnt / "z-second").read_text()
            assert int(first) - int(second) in (0, 1), (first, second)
    finally:
        stop.set()
        thread.join()
        for fd in files:
            os.close(fd)
    assert "error" in results or "done" in results


def test_a_changed_archive_and_image_are_noticed(program: str, space: Path) -> None:
    image = space / "plain.sqsh"
    make(space / "tree", 5)
    assert build(program, str(space / "tree"), str(image))["event"] == "done"
    with Source(program, str(image)) as source:
        size = source.event()["object_size"]
        source.send(cmd="copy", offset=0, length=size)
        assert len(source.read_bulk(size)) == size
        assert source.event() == {"event": "done", "bytes": size}
        os.utime(image)
        source.send(cmd="copy", offset=0, length=10)
        source.read_bulk(10)
        assert source.event()["code"] == "echanged"


def test_quit_and_a_lost_daemon_end_the_child(program: str, space: Path) -> None:
    make(space / "tree", 100)
    for end in ("quit", "close", "parent's words"):
        with Source(program, str(space / "tree")) as source:
            source.event()
            source.send(cmd="build")  # blocks: nobody reads the pipe
            if end == "quit":
                source.send(cmd="quit")
            elif end == "close":
                source.control.close()
            else:
                source.control.sendall(b"no json\n")
            assert source.process.wait(10) == 0
