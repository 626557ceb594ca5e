"""The grammar in Python against the plugin's own, compiled from this tree."""

from __future__ import annotations

import ctypes
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from vine_env.spec import SpecError, parse_spec, spec_text

REPO = Path(__file__).resolve().parents[2]
ERR_TEXT = 480
ODD = ["", ",", ":", "\\", "/", "//", ".", "..", "a", "b c", "\n", "\x7f", "é", "x://"]
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
    ",".join(f"/{n}" for n in range(8)),
    ",".join(f"/{n}" for n in range(9)),
    "/tab\there",
    "/.tar,/.tar.gz",
    "/" + "e" * 78 + "é/..",
]


class Err(ctypes.Structure):
    _fields_ = [
        ("code", ctypes.c_int),
        ("sys_errno", ctypes.c_int),
        ("text", ctypes.c_char * ERR_TEXT),
    ]


Plugin = Callable[[str], str]


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Plugin:
    """What the C says of a text: its canonical form, or its message."""
    folder = tmp_path_factory.mktemp("spec")
    probe = folder / "probe.c"
    # The struct is opaque here: allocated, parsed, turned into text again.
    probe.write_text(
        '#include <stdlib.h>\n#include "vine/spec.h"\n'
        "char *probe(const char *text, struct vine_err *err);\n"
        "char *probe(const char *text, struct vine_err *err)\n{\n"
        "    struct vine_spec *spec = calloc(1, sizeof(*spec));\n"
        "    char *out = NULL;\n"
        "    if (spec != NULL && vine_spec_parse(text, spec, err) == 0)\n"
        "        out = vine_spec_text(spec);\n"
        "    free(spec);\n    return out;\n}\n"
        "size_t err_size(void);\n"
        "size_t err_size(void) { return sizeof(struct vine_err); }\n"
    )
    library = folder / "probe.so"
    subprocess.run(
        ["gcc", "-D_GNU_SOURCE", "-std=gnu11", "-shared", "-fPIC"]
        + [f"-I{REPO}/include", f"-I{REPO}", "-o", str(library), str(probe)]
        + [str(REPO / "daemon/base" / name) for name in ("spec.c", "err.c")],
        check=True,
    )
    loaded = ctypes.CDLL(str(library))
    loaded.err_size.restype = ctypes.c_size_t
    assert loaded.err_size() == ctypes.sizeof(Err)
    loaded.probe.restype = ctypes.c_void_p
    libc = ctypes.CDLL(None)

    def ask(text: str) -> str:
        err = Err()
        out = loaded.probe(ctypes.c_char_p(os.fsencode(text)), ctypes.byref(err))
        if out is None:
            return f"error: {os.fsdecode(err.text)}"
        try:
            return os.fsdecode(ctypes.string_at(out))
        finally:
            libc.free(ctypes.c_void_p(out))

    return ask


def ours(text: str) -> str:
    try:
        return spec_text(parse_spec(text))
    except SpecError as error:
        return f"error: {error}"


@pytest.mark.parametrize("text", CASES, ids=range(len(CASES)))
def test_same_answer(plugin: Plugin, text: str) -> None:
    assert ours(text) == plugin(text)


def test_same_answer_to_anything(plugin: Plugin) -> None:
    chance = random.Random(1)
    refused = 0
    for _ in range(20000):
        words = chance.choices([*ODD, "/a", "/b", ",/c", ":/d"], k=chance.randint(1, 9))
        text = "".join(words)
        assert ours(text) == plugin(text), repr(text)
        refused += ours(text).startswith("error: ")
    assert 1000 < refused < 19900  # both answers were seen
