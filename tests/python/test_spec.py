"""The grammar in Python against the plugin's own, compiled from this tree."""

from __future__ import annotations

import ctypes
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from vine_env.spec import SpecError, parse_data, parse_spec, spec_text

REPO = Path(__file__).resolve().parents[2]
ERR_TEXT = 480
ODD = ["", ",", ":", "\\", "/", "//", ".", "..", "a", "b c", "\n", "\x7f", "é", "x://"]
ODD += [
    "sftp://",
    "https://",
    "h",
    "u@",
    ":22",
    ".tar",
    ".zip",
    "#sha256=",
    "?",
    "[",
    "]",
]
CASES = [
    "/a",
    "/a/,/b:/c",
    "/a//b///",
    "a",
    "/a:/b:/c",
    "/a\\:b:/c",
    "/a,/a",
    "/a,/b:/a",
    "/x.sqsh,/y.sqsh",
    "/x.sqsh:/a,/a",
    "sftp://h/p",
    "/a,https://h/p",
    "/",
    "/a:/",
    "/a:",
    ":/a",
    ",",
    "/a,",
    "/a/../b",
    "/a:/b/.",
    "/" + "n" * 4094,
    "/" + "n" * 4095,
    "/" + "n" * 4096,
    "/" + ":" * 3000,
    "/" + "\\:" * 2047,
    ",".join(f"/{n}" for n in range(16)),
    ",".join(f"/{n}" for n in range(17)),
    "/" + "n" * 4089,
    "/" + "n" * 4090,
    "/" + "n" * 4090 + ":/b",
    "/./" + "n" * 4090,
    "/x.sqsh,/x.sqsh",
    "/tab\there",
    "/.tar,/.tar.gz",
    "/" + "e" * 78 + "é/..",
    "sftp://h/p.tar",
    "sftp://me@h:2222//p//q.sqsh/:/dst,/a",
    f"sftp://h/p.sqsh#sha256={'a' * 64}:/x",
    f"sftp://h/p.sqsh#sha256={'A' * 64}",
    f"sftp://h/#sha256={'a' * 64}",
    "sftp://h/p.tar#",
    "sftp://me:secret@h/p.tar",
    "sftp://-oProxyCommand/p.tar",
    "sftp://@h/p.tar",
    "sftp://h:0/p.tar",
    "sftp://h:65535/p.tar",
    "sftp://h:65536/p.tar",
    "sftp://h:123456/p.tar",
    "sftp://[::1]:22/p.tar",
    "sftp://[::1/p.tar",
    "sftp://[]/p.tar",
    "sftp://[::1]x/p.tar",
    "sftp:///p.tar",
    "sftp://h",
    "sftp://h/",
    "sftp://h,/a",
    "sftp://h\\,/a.tar",
    "sftp://" + "h" * 255 + "/p.tar",
    "sftp://" + "h" * 256 + "/p.tar",
    "sftp://" + "h" * 600 + "/p.tar",
    "sftp://h/" + "n" * 4082 + ".tar",
    "sftp://h/" + "n" * 4083 + ".tar",
    "sftp://h/../p.tar",
    "sftp://h/a\\:b\\,c.tar:/x",
    "sftp://h/ä b.tar",
    "sftp://h/p.zip",
    "sftp://h/.zip",
    "sftp://h/p.tar,sftp://h/p.tar",
    "sftp://h/p.tar:/x:/y",
    "https://h/p.tar.gz",
    "https://me@h/p.tar",
    "https://h:8443/p.tar:relative",
    "https://h/p.tar?token=1",
    "https://h/a b.tar",
    "https://h/a%20b.tar",
    "https://h/ä.tar",
    "https://h/a\\\\b.tar",
    "HTTPS://h/p.tar",
    "ftp://h/p.tar",
    "file:///p.tar",
    "/a:sftp://h/p.tar",
]


class Err(ctypes.Structure):
    _fields_ = [
        ("code", ctypes.c_int),
        ("sys_errno", ctypes.c_int),
        ("text", ctypes.c_char * ERR_TEXT),
    ]


# What --vine-env names and what --vine-data names, as one job would.
PAIRS = [
    ("/a", "/b"),
    ("/a", "/a"),
    ("/a:/x", "/a"),
    ("/a", "/b:/a"),
    ("/x.sqsh", "/x.sqsh"),
    ("/x.sqsh:/y", "/x.sqsh:/y"),
    ("/x.tar", "/x.tar:/x.tar"),
    (",".join(f"/{n}" for n in range(8)), ",".join(f"/{n}" for n in range(8, 16))),
    (",".join(f"/{n}" for n in range(8)), ",".join(f"/{n}" for n in range(8, 17))),
    ("/a", ""),
    ("", "/a"),
    ("/a,", "/b,"),
    ("/a", "/b:/c\\,:/d"),
]

Plugin = Callable[[str | None, str | None], str]


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Plugin:
    """What the C says of a text: its canonical form, or its message."""
    folder = tmp_path_factory.mktemp("spec")
    probe = folder / "probe.c"
    # The struct is opaque here: allocated, parsed, turned into text again.
    probe.write_text(
        '#include <stdlib.h>\n#include "vine/spec.h"\n'
        "char *probe(const char *, const char *, struct vine_err *);\n"
        "char *probe(const char *env, const char *data, struct vine_err *err)\n{\n"
        "    struct vine_spec *spec = calloc(1, sizeof(*spec));\n"
        "    char *out = NULL;\n"
        "    if ((env == NULL || vine_spec_parse(env, spec, err) == 0) &&\n"
        "        (data == NULL || vine_spec_add_data(data, spec, err) == 0))\n"
        "        out = data != NULL ? vine_spec_data_text(spec)\n"
        "                           : vine_spec_text(spec);\n"
        "    free(spec);\n    return out;\n}\n"
        "size_t err_size(void);\n"
        "size_t err_size(void) { return sizeof(struct vine_err); }\n"
    )
    library = folder / "probe.so"
    subprocess.run(
        ["gcc", "-D_GNU_SOURCE", "-std=gnu11", "-shared", "-fPIC"]
        + [f"-I{REPO}/include", f"-I{REPO}", "-o", str(library), str(probe)]
        + [str(REPO / "daemon/base" / name) for name in ("spec.c", "url.c", "err.c")],
        check=True,
    )
    loaded = ctypes.CDLL(str(library))
    loaded.err_size.restype = ctypes.c_size_t
    assert loaded.err_size() == ctypes.sizeof(Err)
    loaded.probe.restype = ctypes.c_void_p
    libc = ctypes.CDLL(None)

    def ask(env: str | None, data: str | None) -> str:
        err = Err()
        texts = [
            None if t is None else ctypes.c_char_p(os.fsencode(t)) for t in (env, data)
        ]
        out = loaded.probe(*texts, ctypes.byref(err))
        if out is None:
            return f"error: {os.fsdecode(err.text)}"
        try:
            return os.fsdecode(ctypes.string_at(out))
        finally:
            libc.free(ctypes.c_void_p(out))

    return ask


def ours(env: str | None, data: str | None) -> str:
    try:
        beside = parse_spec(env) if env is not None else []
        return spec_text(parse_data(data, beside) if data is not None else beside)
    except SpecError as error:
        return f"error: {error}"


@pytest.mark.parametrize("text", CASES, ids=range(len(CASES)))
def test_same_answer(plugin: Plugin, text: str) -> None:
    assert ours(text, None) == plugin(text, None)
    assert ours(None, text) == plugin(None, text)


@pytest.mark.parametrize("pair", PAIRS, ids=range(len(PAIRS)))
def test_same_answer_to_both(plugin: Plugin, pair: tuple[str, str]) -> None:
    assert ours(*pair) == plugin(*pair)


def test_same_answer_to_anything(plugin: Plugin) -> None:
    chance = random.Random(1)
    refused = 0

    def anything() -> str:
        words = chance.choices([*ODD, "/a", "/b", ",/c", ":/d"], k=chance.randint(1, 9))
        return "".join(words)

    for turn in range(20000):
        env = anything() if turn % 3 else None
        data = anything() if env is None or turn % 2 else None
        assert ours(env, data) == plugin(env, data), repr((env, data))
        refused += ours(env, data).startswith("error: ")
    assert 1000 < refused < 19900  # both answers were seen
