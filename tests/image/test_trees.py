"""Directories become images that are the same entry by entry."""

import hashlib
import os
import struct
import subprocess
from pathlib import Path

import pytest
from conftest import USER, mounted, skip
from oddtree import describe_tree, differences, make_odd_tree
from source import Source, build


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run_as(uid: int, code: str) -> None:
    """Run Python code as another user, with this directory's helpers."""
    lib = Path(__file__).parent.parent / "lib" / "oddtree.py"
    subprocess.run(
        ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        + ["/usr/bin/python3", "-c", lib.read_text() + "\n" + code],
        check=True,
    )


def test_an_odd_tree_arrives_as_it_was(program: str, space: Path) -> None:
    tree, image = space / "tree", space / "image"
    make_odd_tree(tree)
    before = describe_tree(tree)
    event = build(program, str(tree), str(image))
    assert event["event"] == "done", event
    resolved = event["resolved"]
    assert resolved["entries"] == len(before) - 1
    assert image.stat().st_size < 40 << 20  # holes stay holes
    with mounted(image, space / "mnt") as mnt:
        assert differences(before, describe_tree(mnt)) == []


def test_a_private_tree_is_read_by_its_owner_only(program: str, space: Path) -> None:
    home = space / "home"
    home.mkdir()
    os.chown(home, USER, USER)
    home.chmod(0o700)
    run_as(USER, f"make_odd_tree({str(home / 'tree')!r}, tiny=500, large_sparse=False)")
    image = space / "image"
    event = build(program, str(home / "tree"), str(image), USER, USER)
    assert event["event"] == "done", event
    with mounted(image, space / "mnt") as mnt:
        assert differences(describe_tree(home / "tree"), describe_tree(mnt)) == []
    other = build(program, str(home / "tree"), str(image), USER + 1, USER + 1)
    assert other["code"] == "eacces"
    assert "tree" in other["text"]


def test_keys_are_common_only_where_all_may_read(program: str, space: Path) -> None:
    tree = space / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "file").write_text("x")
    tree.chmod(0o755)

    def key(uid: int) -> str:
        with Source(program, str(tree), uid, uid) as source:
            event = source.event()
            return str(event.get("key", event["event"]))

    assert key(0) == key(USER) == key(USER + 1)
    os.chown(tree / "sub" / "file", USER, USER)
    (tree / "sub" / "file").chmod(0o600)
    assert key(USER) != key(0)
    assert key(USER + 1) == "error"
    (tree / "sub" / "file").chmod(0o644)
    assert key(USER) == key(USER + 1)
    # Not everybody may come here: root's and the user's keys are their own.
    outer = space / "outer"
    outer.mkdir()
    os.chown(outer, USER, USER)
    outer.chmod(0o700)
    tree = tree.rename(outer / "tree")
    assert key(USER) != key(0)


@pytest.mark.parametrize("what", ["file", "directory", "unlistable"])
def test_what_cannot_be_read_is_named(program: str, space: Path, what: str) -> None:
    tree = space / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "secret").write_text("x")
    mode = {"file": 0o600, "directory": 0o700, "unlistable": 0o711}[what]
    victim = tree / "a" / "b" / ("secret" if what == "file" else ".")
    victim.chmod(mode)
    event = build(program, str(tree), str(space / "image"), USER, USER)
    assert event["event"] == "error"
    assert event["code"] == "eacces"
    assert "secret" in event["text"] or "a/b" in event["text"]


def test_what_only_an_acl_permits_is_refused(program: str, space: Path) -> None:
    tree = space / "tree"
    tree.mkdir()
    (tree / "file").write_text("x")
    (tree / "file").chmod(0o600)
    everybody = 0xFFFFFFFF
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, permissions, who)
        for tag, permissions, who in (
            (0x01, 6, everybody),  # owner
            (0x02, 4, USER),
            (0x04, 0, everybody),  # group
            (0x10, 4, everybody),  # mask
            (0x20, 0, everybody),  # others
        )
    )
    try:
        os.setxattr(tree / "file", "system.posix_acl_access", acl)
    except OSError as error:
        skip(f"no ACLs here: {error}")
    event = build(program, str(tree), str(space / "image"), USER, USER)
    assert event["code"] == "eacces"
    assert "access control list" in event["text"]


def test_sockets_fifos_and_set_id_bits_do_not_arrive(program: str, space: Path) -> None:
    tree = space / "tree"
    tree.mkdir()
    os.mkfifo(tree / "fifo")
    os.mknod(tree / "device", 0o20666, os.makedev(1, 3))
    (tree / "program").write_text("x")
    (tree / "program").chmod(0o6755)
    event = build(program, str(tree), str(space / "image"))
    assert event["resolved"]["skipped"] == 2
    with mounted(space / "image", space / "mnt") as mnt:
        assert [p.name for p in mnt.iterdir()] == ["program"]
        assert (mnt / "program").stat().st_mode & 0o7777 == 0o755


def test_two_builds_give_the_same_bytes(program: str, space: Path) -> None:
    tree = space / "tree"
    make_odd_tree(tree, tiny=3000, large_sparse=False)
    digests = set()
    for jobs, threads in ((1, "1"), (2, "16"), (7, "3")):
        image = space / f"image-{jobs}"
        event = build(program, str(tree), str(image), 0, 0, jobs, "--threads", threads)
        assert event["event"] == "done"
        digests.add(sha256(image))
    assert len(digests) == 1


def test_a_removed_or_renamed_root_is_an_error(program: str, space: Path) -> None:
    assert build(program, str(space / "none"), "/dev/null")["code"] == "enoent"
    (space / "file").write_text("x")
    event = build(program, str(space / "file"), "/dev/null")
    assert event["code"] == "einval"
    assert ".tar.gz" in event["text"]


def test_odd_paths_of_sources_come_escaped(program: str, space: Path) -> None:
    tree = os.fsencode(space) + b"/p%q \xff\n\xc3\xa4"
    os.mkdir(tree)
    with Source(program, tree) as source:
        event = source.event()
    assert event["canonical"].endswith("/p%25q %FF%0A%C3%A4")


def test_activation_is_found(program: str, space: Path) -> None:
    for name, word in (("conda-meta/", "conda"), ("pyvenv.cfg", "venv"), ("x", "none")):
        tree = space / word
        tree.mkdir()
        if name.endswith("/"):
            (tree / name).mkdir()
        else:
            (tree / name).write_text("")
        with Source(program, str(tree)) as source:
            assert source.event()["activate"] == word


def test_max_bytes_bounds_a_tree(program: str, space: Path) -> None:
    tree = space / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(b"x" * 1001)
    event = build(program, str(tree), "/dev/null", 0, 0, 0, "--max-bytes", "1000")
    assert event["code"] == "elimit"
