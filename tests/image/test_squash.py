"""vine-squash alone: what comes of a tar, and which tars are refused."""

import io
import os
import random
import stat
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from conftest import mounted

BLOCK = 128 << 10


class Squash:
    """Tars to images in a folder of the test's own."""

    def __init__(self, program: str, space: Path) -> None:
        self.program = program
        self.space = space

    def run(
        self, tar: bytes, image: Path, *arguments: str, base: Path | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        shell = 'exec "$1" "${@:4}" 3<>"$2" 4<"$3"'
        return subprocess.run(
            ["/bin/bash", "-c", shell, "bash", self.program, str(image)]
            + [str(base or "/dev/null"), *arguments],
            input=tar,
            capture_output=True,
            timeout=120,
        )

    def image(
        self, tar: bytes, name: str, *arguments: str, base: Path | None = None
    ) -> Path:
        image = self.space / name
        done = self.run(tar, image, *arguments, base=base)
        assert done.returncode == 0, done.stderr
        return image

    def refused(self, tar: bytes, *arguments: str, base: Path | None = None) -> str:
        done = self.run(tar, self.space / "refused", *arguments, base=base)
        assert done.returncode == 1, (done.returncode, done.stderr)
        assert done.stderr.startswith(b"vine-squash: ")
        return done.stderr.decode(errors="replace")


@pytest.fixture
def squash(program: str, space: Path) -> Squash:
    return Squash(os.path.join(os.path.dirname(program), "vine-squash"), space)


Content = bytes | None | tarfile.TarInfo  # None: a directory


def tar_of(entries: Iterable[tuple[str, Content]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in entries:
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                tar.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.mtime = 1_600_000_000
            info.mode = 0o755 if content is None else 0o640
            info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            info.size = len(content or b"")
            tar.addfile(info, io.BytesIO(content or b""))
    return out.getvalue()


def noise(seed: int, size: int) -> bytes:
    """Half of it can be compressed."""
    part = random.Random(seed).randbytes(size // 2)
    return (
        part
        + b"".join(b"%016d" % (seed + i) for i in range(size // 32 + 1))[
            : size - len(part)
        ]
    )


def sizes_around_blocks() -> dict[str, Content]:
    sizes = [0, 1, 100, 4096, BLOCK // 2]
    for blocks in (1, 2, 5):
        sizes += [blocks * BLOCK + d for d in (-1, 0, 1)]
    return {f"size-{n}": noise(n, n) for n in sizes}


def mixed() -> dict[str, Content]:
    """Whole blocks, tails, holes, and much of it twice."""
    entries: dict[str, Content] = {"./": None, "a": None, "a/b": None}
    entries |= {f"a/{k}": v for k, v in sizes_around_blocks().items()}
    entries |= {f"a/b/again-{k}": v for k, v in sizes_around_blocks().items()}
    entries |= {f"a/b/small-{i}": noise(i, 3000 + 7 * i) for i in range(300)}
    entries["z-zeros"] = bytes(3 * BLOCK + 50)
    entries["z-zeros-tail"] = noise(1, BLOCK) + bytes(100)
    entries["z-hole"] = noise(2, BLOCK) + bytes(2 * BLOCK) + noise(3, BLOCK + 9)
    entries["z-same-blocks"] = noise(4, BLOCK) * 5
    entries["z-same-blocks-2"] = noise(4, BLOCK) * 2
    entries["z-part"] = noise(5, BLOCK) + noise(6, BLOCK)
    entries["z-part-2"] = noise(5, BLOCK) + noise(7, BLOCK)
    return entries


def check_content(image: Path, mnt: Path, entries: dict[str, Content]) -> None:
    with mounted(image, mnt) as root:
        names = {n.rstrip("/") for n in entries if n != "./"}
        found = {str(p.relative_to(root)) for p in root.rglob("*")}
        assert found == names
        for name, content in entries.items():
            if isinstance(content, bytes):
                assert (root / name).read_bytes() == content, name


def test_what_is_packed_comes_back(squash: Squash, space: Path) -> None:
    entries = mixed()
    image = squash.image(tar_of(entries.items()), "image")
    check_content(image, space / "mnt", entries)
    assert image.stat().st_size % 4096 == 0
    # What is there twice is stored once: the noise has some 2.7 MB that is new.
    assert image.stat().st_size < 4 << 20
    with mounted(image, space / "mnt") as root:
        status = (root / "a/size-100").stat()
        assert (status.st_mtime, stat.S_IMODE(status.st_mode)) == (1_600_000_000, 0o640)
        assert (root / "z-zeros").stat().st_blocks == 0


def test_the_bytes_do_not_depend_on_threads(squash: Squash) -> None:
    tar = tar_of(mixed().items())
    images = [
        squash.image(tar, f"image-{jobs}-{turn}", "--jobs", str(jobs)).read_bytes()
        for jobs in (1, 2, 3, 4, 7)
        for turn in range(3)
    ]
    assert all(image == images[0] for image in images)


def test_an_image_that_was_there_is_replaced(squash: Squash, space: Path) -> None:
    small = tar_of([("./", None), ("file", b"x")])
    fresh = squash.image(small, "fresh").read_bytes()
    (space / "used").write_bytes(noise(1, 3 << 20))
    assert squash.image(small, "used").read_bytes() == fresh


def test_the_order_of_the_tar_is_not_that_of_names(squash: Squash, space: Path) -> None:
    names = [f"f{i:03}" for i in range(400)]
    random.Random(1).shuffle(names)
    entries: dict[str, Content] = {name: name.encode() for name in names}
    entries |= {"deep/er/file": b"1", "deep/er": None, "deep": None, "./": None}
    image = squash.image(tar_of(entries.items()), "image")
    check_content(image, space / "mnt", entries)
    with mounted(image, space / "mnt") as root:
        assert stat.S_IMODE(root.stat().st_mode) == 0o755
        # Each is found, so the kernel agrees with the order of the names.
        assert all((root / name).exists() for name in names)


def test_links_of_both_kinds(squash: Squash, space: Path) -> None:
    hard, soft = tarfile.TarInfo(), tarfile.TarInfo()
    hard.type, hard.linkname = tarfile.LNKTYPE, "z/file"
    soft.type, soft.linkname = tarfile.SYMTYPE, "../" + "t" * 3000
    image = squash.image(
        tar_of([("./", None), ("z", None), ("z/file", noise(1, BLOCK + 5))])[:-10240]
        + tar_of([("a", None), ("a/hard", hard), ("a/soft", soft)]),
        "image",
    )
    with mounted(image, space / "mnt") as root:
        one, other = (root / "a/hard").stat(), (root / "z/file").stat()
        assert (one.st_ino, one.st_nlink) == (other.st_ino, 2)
        assert (root / "a/hard").read_bytes() == noise(1, BLOCK + 5)
        assert os.readlink(root / "a/soft") == "../" + "t" * 3000


def test_a_tar_cut_anywhere_is_refused(squash: Squash) -> None:
    tar = tar_of([("./", None), ("a", noise(1, 5000)), ("b" * 200, noise(2, BLOCK))])
    whole = -(-len(tar.rstrip(b"\0")) // 512) * 512
    for cut in [0, 1, *range(512, whole + 1024, 512), whole - 100]:
        squash.refused(tar[:cut])
    assert squash.image(tar[: whole + 1024], "image")


def special(kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    "entries",
    [
        [("../out", b"x")],
        [("a/../../out", b"x")],
        [("file", b"x"), ("file", b"y")],
        [("file", b"x"), ("file/below", b"y")],
        [("d", None), ("d", b"x")],
        [("d/file", b"x"), ("d", b"x")],
        [("d", None), ("d", None)],
        [("./", None), ("./", None)],
        [("./", b"x")],
        [("n" * 256, b"x")],
        [("d/" * 2048 + "x", b"x")],
        [("link", special(tarfile.LNKTYPE, "none"))],
        [("d", None), ("link", special(tarfile.LNKTYPE, "d"))],
        [("link", special(tarfile.SYMTYPE, "t" * 4096))],
        [("fifo", special(tarfile.FIFOTYPE))],
        [("device", special(tarfile.CHRTYPE))],
    ],
    ids=lambda entries: entries[-1][0][:12],
)
def test_what_no_tree_has_is_refused(
    squash: Squash, entries: list[tuple[str, Content]]
) -> None:
    squash.refused(tar_of(entries))


def test_no_tar_and_no_image(squash: Squash, space: Path) -> None:
    squash.refused(b"")
    squash.refused(noise(1, 100_000))
    done = subprocess.run([squash.program, "--jobs", "x"], capture_output=True)
    assert done.returncode == 2
    assert b"usage" in done.stderr
    done = squash.run(tar_of([("file", noise(1, BLOCK))]), Path("/dev/full"))
    assert done.returncode == 1


def same() -> tarfile.TarInfo:
    """Content as in the base."""
    info = tarfile.TarInfo()
    info.mtime, info.mode = 1_600_000_000, 0o640
    info.pax_headers = {"SCHILY.xattr.vine.same": "1"}
    return info


def changed(entries: dict[str, Content], seed: int) -> dict[str, Content]:
    """A later version of a tree: some files other, some new, some gone."""
    chance = random.Random(seed)
    later: dict[str, Content] = {}
    for name, content in entries.items():
        fate = chance.random()
        if isinstance(content, bytes) and fate < 0.06:
            continue
        if isinstance(content, bytes) and fate < 0.12:
            later[name + "-new"] = noise(seed, chance.randrange(3 * BLOCK))
        if isinstance(content, bytes) and fate > 0.94:
            content = noise(seed + 1, len(content) + chance.randrange(3))
        later[name] = content
    return later


def marked(
    later: dict[str, Content], before: dict[str, Content]
) -> list[tuple[str, Content]]:
    return [
        (k, same() if isinstance(v, bytes) and v == before.get(k) else v)
        for k, v in later.items()
    ]


@pytest.mark.parametrize("seed", range(12))
def test_what_is_taken_from_a_base_makes_no_difference(
    squash: Squash, space: Path, seed: int
) -> None:
    before = mixed()
    squash.image(tar_of(before.items()), "base")
    later = changed(before, seed) if seed > 0 else dict(before)
    if seed % 3 == 0:  # what was the content of another file, and stands before it
        later["a/0"] = noise(7, 3049)
        later["a/0-blocks"] = noise(5 * BLOCK, 5 * BLOCK)
    whole = squash.image(tar_of(sorted(later.items())), "whole")
    tar = tar_of(marked(dict(sorted(later.items())), before))
    if seed == 1:
        assert len(tar) < len(tar_of(later.items())) / 2
    taken = squash.image(tar, "taken", "--base", base=space / "base")
    assert taken.read_bytes() == whole.read_bytes()
    check_content(taken, space / "mnt", later)


def test_blocks_of_the_base_are_taken_as_they_are(squash: Squash, space: Path) -> None:
    """Not unpacked and packed again: a base of plain blocks gives plain blocks."""
    base = squash.image(tar_of([("file", noise(1, BLOCK)), ("tail", b"x" * 9)]), "base")
    data = bytearray(base.read_bytes())
    at = data.index(b"\x28\xb5\x2f\xfd")
    data[at + 40] ^= 1
    base.write_bytes(data)
    tar = tar_of([("file", same()), ("tail", same())])
    image = squash.image(tar, "image", "--base", base=base).read_bytes()
    assert image[at : at + 100] == data[at : at + 100]


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([("none", same())], "no file"),
        ([("a", same())], "no file"),
        ([("a/none", same())], "no file"),
        ([("link", same())], "no file"),
        ([("a/file/below", same())], "no file"),
    ],
)
def test_a_mark_for_what_the_base_has_not_is_refused(
    squash: Squash, entries: list[tuple[str, Content]], why: str
) -> None:
    link = special(tarfile.SYMTYPE, "a/file")
    base = squash.image(tar_of([("a", None), ("a/file", b"x"), ("link", link)]), "base")
    assert why in squash.refused(tar_of(entries), "--base", base=base)


def test_marks_without_a_base_or_with_bytes_are_refused(
    squash: Squash, space: Path
) -> None:
    assert "no image before" in squash.refused(tar_of([("file", same())]))
    base = squash.image(tar_of([("file", b"y")]), "base")
    with_bytes = bytearray(tar_of([("file", same())]))
    whole = bytearray(tar_of([("file", b"x")]))
    with_bytes[1024 : len(whole) + 1024] = whole  # behind the mark's own two blocks
    assert "has bytes" in squash.refused(bytes(with_bytes), "--base", base=base)


def test_a_damaged_base_is_refused_or_harmless(squash: Squash, space: Path) -> None:
    """Any byte of its tables changed: an error, or an image, never a crash."""
    entries: dict[str, Content] = {f"d{i % 9}/f{i}": noise(i, 900) for i in range(90)}
    entries["large"] = noise(1, 2 * BLOCK + 10)
    base = squash.image(tar_of(entries.items()), "base")
    good = base.read_bytes()
    tar = tar_of([(name, same()) for name in entries])
    tables = int.from_bytes(good[64:72], "little")  # where the inodes begin
    chance = random.Random(3)
    places = [*range(0, 102, 3), *chance.sample(range(102, tables), 40)]
    places += chance.sample(range(tables, len(good.rstrip(b"\0"))), 150)
    refused = 0
    for place in places:
        damaged = bytearray(good)
        damaged[place] ^= 1 << chance.randrange(8)
        base.write_bytes(damaged)
        done = squash.run(tar, space / "image", "--base", base=base)
        assert done.returncode in (0, 1), (place, done.stderr)
        refused += done.returncode
    assert refused > len(places) / 4
    for cut in (0, 50, 96, tables - 1, tables + 100, len(good) - 4096):
        base.write_bytes(good[:cut])
        squash.refused(tar, "--base", base=base)


def test_a_base_of_another_kind_is_refused(squash: Squash, space: Path) -> None:
    (space / "tree").mkdir()
    (space / "tree" / "file").write_bytes(noise(1, 1000))
    for options in (["-comp", "gzip"], ["-comp", "zstd"], ["-b", "65536"]):
        base = space / "other.sqsh"
        subprocess.run(
            ["mksquashfs", str(space / "tree"), str(base), "-noappend", "-quiet"]
            + ["-no-progress", *options],
            check=True,
        )
        why = squash.refused(tar_of([("file", same())]), "--base", base=base)
        assert "another kind" in why
