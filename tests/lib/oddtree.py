"""A directory tree with everything odd in it, and a way to compare two trees.

make_odd_tree(path) builds it, describe_tree(path) says what is in a tree entry by
entry; two trees are the same when their descriptions are equal (see differences).
"""

import hashlib
import os
import stat
from dataclasses import dataclass, replace

GIB = 1 << 30
Path = str | bytes | os.PathLike[str]


@dataclass(frozen=True)
class Entry:
    type: str  # dir file link other
    mode: int  # 07777 bits
    uid: int
    gid: int
    size: int  # files only
    mtime: int  # seconds
    target: bytes  # symbolic links
    group: bytes  # least path of all that share the inode, b"" if none does
    sha256: str  # files


def _write(path: bytes, content: bytes = b"", mode: int = 0o644) -> None:
    with open(path, "wb") as file:
        file.write(content)
    os.chmod(path, mode)


def _make_names(root: bytes) -> None:
    names = [
        b"blank in name",
        b" leading and trailing ",
        b"quote'single",
        b'quote"double',
        b"back\\slash",
        b"new\nline",
        b"tab\tand\x01control\x7f",
        "umläut-日本語".encode(),
        b"not utf-8 \xff\xfe\x80",
        b"-dash",
        b"...",
        b"..hidden",
        b"#hash %41 percent",
        b"$(echo no)`;&|*?[a-z]{a,b}",
        b"n" * 255,
    ]
    directory = os.path.join(root, b"names")
    os.mkdir(directory)
    for i, name in enumerate(names):
        _write(os.path.join(directory, name), b"%d\n" % i)
    for name in names[:9]:
        below = os.path.join(directory, b"dir " + name)
        os.mkdir(below)
        _write(os.path.join(below, name), name)
    deep = os.path.join(directory, *[b"d%02d-" % i + b"x" * 60 for i in range(20)])
    os.makedirs(deep)
    _write(os.path.join(deep, b"deep" * 40), b"deep\n")


def _make_links(root: bytes) -> None:
    d = os.path.join(root, b"links")
    os.makedirs(os.path.join(d, b"sub"))
    _write(os.path.join(d, b"target"), b"target\n")
    for name, target in {
        b"relative": b"target",
        b"relative-up": b"../links/target",
        b"absolute": os.path.join(d, b"target"),
        b"outside": b"/etc/passwd",
        b"dangling": b"no/such/place",
        b"loop": b"loop",
        b"loop-a": b"loop-b",
        b"loop-b": b"loop-a",
        b"to-dir": b"sub",
        b"sub/up": b"..",
        b"long-relative": b"../" + b"r" * 250,
        b"long-absolute": b"/" + b"a" * 250,
        b"odd bytes \xff": b"target \xfe\n'\"",
    }.items():
        os.symlink(target, os.path.join(d, name))
    os.link(os.path.join(d, b"target"), os.path.join(d, b"hard"))
    os.link(os.path.join(d, b"target"), os.path.join(d, b"sub", b"hard \xff"))
    os.link(os.path.join(d, b"target"), os.path.join(root, b"a-hard-link-first"))
    os.link(
        os.path.join(d, b"dangling"),
        os.path.join(d, b"hard-to-link"),
        follow_symlinks=False,
    )


def _make_modes(root: bytes) -> None:
    d = os.path.join(root, b"modes")
    os.mkdir(d)
    for mode in (0o400, 0o444, 0o500, 0o600, 0o640, 0o644, 0o755, 0o777):
        _write(os.path.join(d, b"%03o" % mode), b"%o\n" % mode, mode)
    for mode in (0o500, 0o700, 0o755, 0o777, 0o1777, 0o2755):
        os.mkdir(os.path.join(d, b"dir-%04o" % mode))
        os.chmod(os.path.join(d, b"dir-%04o" % mode), mode)


def _make_times(root: bytes) -> None:
    d = os.path.join(root, b"times")
    os.mkdir(d)
    for seconds in (0, 1, 1_000_000_000, 2**31 - 1, 2**31 + 5, 2**32 - 1):
        path = os.path.join(d, b"%d" % seconds)
        _write(path, b"%d\n" % seconds)
        os.utime(path, ns=(0, seconds * 10**9 + 123_456_789))
    os.symlink(b"0", os.path.join(d, b"link"))
    os.utime(os.path.join(d, b"link"), (7, 7), follow_symlinks=False)
    os.mkdir(os.path.join(d, b"dir"))
    os.utime(os.path.join(d, b"dir"), (12345, 12345))


def _make_sizes(root: bytes, large_sparse: bool) -> None:
    d = os.path.join(root, b"sizes")
    os.mkdir(d)
    _write(os.path.join(d, b"empty"))
    for size in (1, 511, 512, 513, 131071, 131072, 131073, 4 << 20, (4 << 20) + 1):
        _write(os.path.join(d, b"%d" % size), (b"%d," % size * size)[:size])
    _write(os.path.join(d, b"large"), os.urandom(9_000_001))
    with open(os.path.join(d, b"sparse"), "wb") as file:
        file.truncate(6_000_001)
        file.seek(5 << 20)
        file.write(b"not at the start" * 300)
    with open(os.path.join(d, b"sparse-end"), "wb") as file:
        file.write(b"start")
        file.truncate(5_000_123)
    with open(os.path.join(d, b"sparse-all"), "wb") as file:
        file.truncate(8 << 20)
    with open(os.path.join(d, b"sparse-many"), "wb") as file:
        for i in range(300):
            file.seek(i * (64 << 10))
            file.write(b"%d" % i)
    if large_sparse:
        with open(os.path.join(d, b"sparse-3gib"), "wb") as file:
            file.truncate(3 * GIB)
            file.seek(GIB)
            file.write(b"in the middle")


def _make_tiny(root: bytes, count: int) -> None:
    for i in range(count):
        d = os.path.join(root, b"tiny", b"%03d" % (i // 500))
        if i % 500 == 0:
            os.makedirs(d)
        _write(os.path.join(d, b"%05d.py" % i), b"x = %d\n" % i if i % 10 else b"")


def make_odd_tree(path: Path, tiny: int = 50_000, large_sparse: bool = True) -> None:
    """Make the tree at `path`, which must not exist. Run as the user who shall own it
    (modes that the owner may not read are left out, set-id bits too: they do not
    arrive)."""
    root = os.fsencode(path)
    os.mkdir(root)
    os.makedirs(os.path.join(root, b"empty-dir", b"empty-dir"))
    _make_names(root)
    _make_links(root)
    _make_modes(root)
    _make_sizes(root, large_sparse)
    _make_tiny(root, tiny)
    _make_times(root)
    os.utime(os.path.join(root, b"empty-dir"), (86400, 86400))
    os.utime(root, (987_654_321, 987_654_321))


def _digest(path: bytes, size: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _describe(path: bytes, s: os.stat_result, content: bool) -> Entry:
    kinds = {stat.S_IFDIR: "dir", stat.S_IFREG: "file", stat.S_IFLNK: "link"}
    kind = kinds.get(stat.S_IFMT(s.st_mode), "other")
    return Entry(
        type=kind,
        mode=0o777 if kind == "link" else stat.S_IMODE(s.st_mode),
        uid=s.st_uid,
        gid=s.st_gid,
        size=s.st_size if kind == "file" else 0,
        mtime=s.st_mtime_ns // 10**9,
        target=os.readlink(path) if kind == "link" else b"",
        group=b"",
        sha256=_digest(path, s.st_size) if kind == "file" and content else "",
    )


def describe_tree(path: Path, content: bool = True) -> dict[bytes, Entry]:
    """Every entry below `path` by its relative path, the root itself as b"."."""
    root = os.fsencode(path)
    entries: dict[bytes, Entry] = {}
    inodes: dict[tuple[int, int], list[bytes]] = {}

    def add(relative: bytes) -> None:
        full = os.path.join(root, relative)
        s = os.lstat(full)
        entries[relative] = _describe(full, s, content)
        if not stat.S_ISDIR(s.st_mode):
            inodes.setdefault((s.st_dev, s.st_ino), []).append(relative)

    add(b".")
    for directory, dirs, files in os.walk(root):
        below = os.path.relpath(directory, root)
        for name in dirs + files:
            add(name if below == b"." else os.path.join(below, name))
    for names in inodes.values():
        if len(names) > 1:
            for name in names:
                entries[name] = replace(entries[name], group=min(names))
    return entries


def differences(a: dict[bytes, Entry], b: dict[bytes, Entry]) -> list[str]:
    """What differs, one line an entry; empty = the same."""
    return [
        f"{name!r}: {a.get(name)} != {b.get(name)}"
        for name in sorted(a.keys() | b.keys())
        if a.get(name) != b.get(name)
    ]
