"""Each rule of contrib/lint.py catches a made-up violation, and only that."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("vine_lint", ROOT / "contrib/lint.py")
lint = importlib.util.module_from_spec(spec)
sys.modules["vine_lint"] = lint
spec.loader.exec_module(lint)


@pytest.fixture
def repo(tmp_path):
    """An empty git tree with our formatting rules; write() adds a file to it."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    for name in (".clang-format", "ruff.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    return tmp_path


def write(repo, name, text):
    path = repo / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def found(repo):
    return [(f.path, f.line, f.what) for f in lint.lint(repo)]


def test_a_clean_tree_has_no_finding(repo):
    write(repo, "include/vine/a.h", "int a(void);\n")
    write(
        repo,
        "daemon/wire/w.c",
        '#include <jansson.h>\n\n#include "daemon/base/b.h"\n#include "vine/a.h"\n',
    )
    write(repo, "contrib/x.py", "print(1)\n")
    write(repo, "contrib/y", "#!/bin/bash\necho hello\n")
    assert found(repo) == []


def test_c_formatting(repo):
    write(repo, "daemon/base/a.c", "int a(void)\n{\n  return 1;\n}\n")
    assert found(repo) == [("daemon/base/a.c", 2, "formatting")]


@pytest.mark.parametrize(
    ("includer", "header"),
    [
        ("daemon/base/x.c", "daemon/wire/w.h"),
        ("daemon/core/x.c", "daemon/wire/w.h"),
        ("daemon/core/x.h", "daemon/edge/w.h"),
        ("daemon/node/x.c", "daemon/manager/m.h"),
        ("daemon/manager/x.c", "daemon/node/n.h"),
        ("daemon/manager/x.c", "daemon/image/i.h"),
        ("daemon/cli/x.c", "daemon/core/c.h"),
        ("daemon/source/x.c", "daemon/node/n.h"),
        ("daemon/edge/x.c", "daemon/node/n.h"),
        ("spank/x.c", "daemon/cli/c.h"),
        ("include/vine/x.h", "daemon/base/b.h"),
        ("tests/sim/x.c", "daemon/wire/w.h"),
        ("daemon/node/x.c", "daemon/node/../manager/m.h"),
    ],
)
def test_layers(repo, includer, header):
    write(repo, includer, f'\n#include "{header}"\n')
    folder = includer.rpartition("/")[0]
    what = f'{folder} must not include "{header}"'
    assert (includer, 2, what) in found(repo)


@pytest.mark.parametrize(
    "header", ["unistd.h", "sys/stat.h", "time.h", "pthread.h", "uv.h", "signal.h"]
)
def test_the_core_sees_no_system_header(repo, header):
    write(repo, "daemon/core/x.c", f"#include <{header}>\n")
    what = f"the core must not include <{header}>"
    assert ("daemon/core/x.c", 1, what) in found(repo)


@pytest.mark.parametrize(
    ("includer", "header"),
    [
        ("daemon/wire/x.c", "openssl/evp.h"),
        ("daemon/base/digest2.c", "openssl/evp.h"),
        ("daemon/node/x.c", "munge.h"),
        ("daemon/base/x.c", "jansson.h"),
        ("daemon/wire/x.c", "uv.h"),
        ("daemon/node/x.c", "archive.h"),
        ("daemon/node/x.c", "archive_entry.h"),
        ("daemon/cli/x.c", "slurm/spank.h"),
        ("daemon/node/x.c", "fuse3/fuse.h"),
        ("daemon/node/x.c", "cmocka.h"),
    ],
)
def test_one_door_a_library(repo, includer, header):
    write(repo, includer, f"#include <{header}>\n")
    assert found(repo) == [(includer, 1, f"<{header}> outside its door")]


def test_long_files(repo):
    write(repo, "daemon/base/a.h", "int a;\n" * 701)
    write(repo, "daemon/base/b.h", "int b;\n" * 700)
    assert found(repo) == [("daemon/base/a.h", 1, "file of 701 lines, limit 700")]


def test_long_c_functions(repo):
    def function(name, body_lines):
        return f"int {name}(int x)\n{{\n" + "    x++;\n" * body_lines + "}\n"

    write(repo, "daemon/base/a.c", function("fits", 68) + "\n" + function("long", 69))
    what = "long of 71 lines, limit 70"
    assert found(repo) == [("daemon/base/a.c", 74, what)]


def test_the_name_of_a_function_with_a_long_head(repo):
    head = "static int name(int (*callback)(void *), void *context)\n"
    functions = list(lint.c_functions("int other;\n" + head + "{\n}\n"))
    assert functions == [(3, "name", 2)]


def test_long_python_functions(repo):
    body = "    print(1)\n" * 70
    write(repo, "tests/a.py", f"def long():\n{body}")
    assert found(repo) == [("tests/a.py", 1, "long of 71 lines, limit 70")]


def test_python_is_checked_and_formatted(repo):
    write(repo, "contrib/tool", "#!/usr/bin/env python3\nimport os\n\nprint( 1)\n")
    findings = found(repo)
    assert ("contrib/tool", 4, "formatting") in findings
    assert any(line == 2 and "F401" in what for _, line, what in findings)


def test_shell_syntax(repo):
    write(repo, "contrib/a", "#!/bin/bash\nif true; then\n")
    findings = found(repo)
    assert [path for path, _, _ in findings] == ["contrib/a"]
    assert "syntax error" in findings[0][2]


def test_ignored_files_are_not_ours(repo):
    write(repo, ".gitignore", "/build/\n")
    write(repo, "build/a.c", "int a(void)\n{\n  return 1;\n}\n")
    assert found(repo) == []


def test_a_finding_names_place_fault_and_mend(repo):
    write(repo, "daemon/cli/x.c", "#include <uv.h>\n")
    assert [str(f) for f in lint.lint(repo)] == [
        "daemon/cli/x.c:1: <uv.h> outside its door: only daemon/edge/, daemon/node/,"
        " daemon/manager/ may include it"
    ]
