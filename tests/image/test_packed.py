"""Packed files: made without a daemon, streamed, exported."""

import os
import subprocess
from pathlib import Path

from conftest import USER, mounted
from oddtree import describe_tree, differences, make_odd_tree
from source import Source


def pack(cli: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [cli, "pack", "--local", *map(str, arguments)], capture_output=True, text=True
    )


def test_packing_is_repeatable_and_keeps_the_tree(
    program: str, cli: str, space: Path
) -> None:
    tree, file = space / "tree", space / "env.sqsh"
    make_odd_tree(tree, tiny=300, large_sparse=False)
    assert pack(cli, tree, "-o", file).returncode == 0
    assert pack(cli, tree, "-o", space / "again.sqsh").returncode == 0
    assert file.read_bytes() == (space / "again.sqsh").read_bytes()
    with mounted(file, space / "mnt") as mnt:
        assert differences(describe_tree(tree), describe_tree(mnt)) == []
    with Source(program, str(file)) as source:
        event = source.event()
        assert event["kind"] == "image"
        assert event["signature"] == ""
        source.send(cmd="manifest")
        manifest = source.read_bulk(event["manifest_bytes"])
        assert manifest.startswith(b"VNM1")
        assert int.from_bytes(manifest[4:12], "big") == event["object_size"]
        assert source.event() == {"event": "done", "bytes": len(manifest)}
        # Several at once, in order.
        for offset, length in ((0, 4), (4096, 100_000), (event["object_size"] - 8, 8)):
            source.send(cmd="copy", offset=offset, length=length)
        data = source.read_bulk(4 + 100_000 + 8)
        assert data[:4] == b"hsqs"
        assert data[-8:] == b"VNINFEND"
        assert [source.event()["bytes"] for _ in range(3)] == [4, 100_000, 8]
        source.send(cmd="copy", offset=event["object_size"], length=1)
        assert source.event()["code"] == "einval"


def test_the_key_comes_before_any_byte(program: str, cli: str, space: Path) -> None:
    (space / "tree").mkdir()
    assert pack(cli, space / "tree", "-o", space / "env.sqsh").returncode == 0
    (space / "empty.sqsh").touch()
    with Source(program, str(space / "env.sqsh")) as source:
        whole = source.event()
    with Source(program, str(space / "env.sqsh"), 0, 0, "--key-first") as source:
        size = (space / "env.sqsh").stat().st_size
        assert source.event() == {"event": "key", "key": whole["key"], "bytes": size}
        source.send(cmd="open")
        assert source.event() == whole
        source.send(cmd="open")
        assert source.event()["code"] == "einval"
    with Source(program, str(space / "env.sqsh"), 0, 0, "--key-first") as source:
        source.event()
        source.send(cmd="copy", offset=0, length=1)
        assert source.event()["code"] == "eproto"
    # What is inside does not matter yet.
    with Source(program, str(space / "empty.sqsh"), 0, 0, "--key-first") as source:
        assert source.event()["event"] == "key"
        source.send(cmd="open")
        assert source.event()["code"] == "ecorrupt"
    # A directory has no key but by its walk.
    with Source(program, str(space / "tree"), 0, 0, "--key-first") as source:
        assert source.event()["event"] == "resolved"


def test_nothing_is_replaced_or_left_behind(
    program: str, cli: str, space: Path
) -> None:
    (space / "tree").mkdir()
    (space / "kept.sqsh").write_text("mine")
    out = space / "out"
    out.mkdir()
    result = pack(cli, space / "tree", "-o", space / "kept.sqsh")
    assert result.returncode != 0
    assert "--force" in result.stderr
    assert (space / "kept.sqsh").read_text() == "mine"
    assert pack(cli, space / "none", "-o", out / "x.sqsh").returncode != 0
    (space / "bad.zip").write_text("no zip")
    assert pack(cli, space / "bad.zip", "-o", out / "x.sqsh").returncode != 0
    assert list(out.iterdir()) == []
    result = pack(cli, space / "tree", "-o", space / "kept.sqsh", "--force")
    assert result.returncode == 0
    assert (space / "kept.sqsh").read_bytes()[:4] == b"hsqs"


def export(program: str, uid: int, out: Path, image: int, **more: object) -> dict:
    with Source(program, "/", uid, uid, "--kind", "export") as source:
        ready = source.event()
        if ready["event"] != "ready":
            return ready
        fds = [image, *([more.pop("trailer_fd")] if "trailer_fd" in more else [])]
        source.send(fds, cmd="export", path=str(out), **more)  # type: ignore[arg-type]
        return source.event()


def test_export_writes_as_the_user(program: str, space: Path) -> None:
    out = space / "out"
    out.mkdir()
    os.chown(out, USER, USER)
    image, trailer = os.memfd_create("image"), os.memfd_create("trailer")
    try:
        os.write(image, b"i" * 3_000_000 + b"not this")
        os.write(trailer, b"trailer")
        arguments = {"size": 3_000_000, "trailer": True, "trailer_fd": trailer}
        event = export(program, USER, out / "x%20y", image, **arguments)
        assert event == {"event": "done", "bytes": 3_000_007}, event
        written = out / "x y"
        assert written.read_bytes() == b"i" * 3_000_000 + b"trailer"
        s = written.stat()
        assert (s.st_uid, s.st_mode & 0o777) == (USER, 0o600)
        again = export(program, USER, written, image, size=5, trailer=False)
        assert again["code"] == "einval"
        arguments = {"size": 5, "trailer": False, "force": True, "mode": 0o640}
        assert export(program, USER, written, image, **arguments)["event"] == "done"
        assert written.read_bytes() == b"iiiii"
        assert written.stat().st_mode & 0o777 == 0o640
        # Not where he may not write, not more than there is; and nothing is left.
        other = export(program, USER, space / "no", image, size=5, trailer=False)
        assert other["code"] == "eacces"
        more = export(program, USER, out / "z", image, size=9_000_000, trailer=False)
        assert more["code"] == "ecorrupt"
        assert sorted(p.name for p in out.iterdir()) == ["x y"]
    finally:
        os.close(image)
        os.close(trailer)


def test_damaged_images_are_refused(program: str, cli: str, space: Path) -> None:
    (space / "tree").mkdir()
    file = space / "env.sqsh"
    assert pack(cli, space / "tree", "-o", file).returncode == 0
    whole = file.read_bytes()
    file.chmod(0o644)
    for damaged in (b"", b"hsqs", whole[:90], b"x" + whole[1:], whole[:9] + whole[10:]):
        file.write_bytes(damaged)
        with Source(program, str(file)) as source:
            assert source.event()["code"] == "ecorrupt"
    # Without its trailer it is a plain image.
    file.write_bytes(whole[: len(whole) - 200])
    with Source(program, str(file)) as source:
        event = source.event()
        assert event["event"] == "resolved"
        assert event["manifest_bytes"] == 0
