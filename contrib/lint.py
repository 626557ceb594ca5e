#!/usr/bin/env python3
"""make lint: what a reviewer should not have to say.

Checks every file that git knows or would add: formatting (clang-format, ruff), who may
include whom, one door a library, sizes of files and functions, shell syntax. One line
a finding, `path:line: what: mend`; exit status 1 if there is one. The tables below are
the rules.
"""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

FILE_LINES_MAX = 700
FUNCTION_LINES_MAX = 70

# A folder's code may include headers of these folders, its own and include/vine.
LAYERS: dict[str, set[str]] = {
    "include/vine": set(),
    "daemon/base": set(),
    "daemon/wire": {"daemon/base"},
    "daemon/core": {"daemon/base"},
    "daemon/image": {"daemon/base"},
    "daemon/edge": {"daemon/base", "daemon/wire"},
    "daemon/source": {"daemon/base", "daemon/image"},
    "daemon/remote": {"daemon/base", "daemon/image", "daemon/source"},
    "daemon/cli": {"daemon/base", "daemon/wire", "daemon/image"},
    "daemon/squash": {"daemon/base", "daemon/image"},
    "daemon/lazy": set(),
    "daemon/manager": {"daemon/base", "daemon/wire", "daemon/core", "daemon/edge"},
    "daemon/node": {
        "daemon/base",
        "daemon/wire",
        "daemon/core",
        "daemon/edge",
        "daemon/image",
    },
    "spank": {"daemon/base", "daemon/wire"},
    "tests/sim": {"daemon/base", "daemon/core"},
}

# Headers of a library, and the only files or folders ("/" at the end) that may see
# them: an outside library has one door, where it can be understood and changed.
DOORS: dict[str, tuple[str, ...]] = {
    "openssl/": ("daemon/base/digest.c",),
    "munge.h": ("daemon/wire/auth.c",),
    "jansson.h": (
        "include/vine/client.h",
        "daemon/wire/",
        "daemon/node/",
        "daemon/manager/",
        "daemon/cli/",
        "daemon/image/info.c",
        "daemon/source/",
        "spank/",
    ),
    "uv.h": ("daemon/edge/", "daemon/node/", "daemon/manager/"),
    "archive.h": ("daemon/image/", "daemon/squash/tar_in.c"),
    "archive_entry.h": ("daemon/image/", "daemon/squash/tar_in.c"),
    "microhttpd.h": ("daemon/edge/metrics.c",),
    "sqfs/": ("daemon/squash/",),
    "libssh2": (
        "daemon/remote/known_hosts.c",
        "daemon/remote/known_hosts.h",
        "daemon/remote/sftp.c",
    ),
    "curl/": ("daemon/remote/https.c",),
    "zstd.h": ("daemon/image/listing.c",),
    "slurm/": ("spank/",),
    "fuse": ("daemon/lazy/main.c", "tests/cluster/"),
    "cmocka.h": ("tests/unit/",),
}
TEST_FOLDERS = ("tests/unit/", "tests/fuzz/", "tests/bench/", "tests/sim/")

# The core has no system calls: these are all the outside headers it may see.
CORE = "daemon/core"
CORE_HEADERS = set(
    """assert.h ctype.h errno.h inttypes.h limits.h stdarg.h stdbool.h stddef.h stdint.h
    stdio.h stdlib.h string.h""".split()
)

INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]')


@dataclass(frozen=True, order=True)
class Finding:
    path: str
    line: int
    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}: {self.mend}"


class Tree:
    """The files to check, by kind, as paths relative to `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        names = subprocess.run(
            ["git", "-C", str(root), "ls-files", "-co", "--exclude-standard", "-z"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split("\0")
        self.files = sorted(n for n in set(names) if n and (root / n).is_file())
        self.c = [n for n in self.files if n.endswith((".c", ".h"))]
        self.python = [n for n in self.files if self._is(n, ".py", "python")]
        self.shell = [n for n in self.files if self._is(n, ".sh", "sh")]

    def _is(self, name: str, ending: str, interpreter: str) -> bool:
        if name.endswith(ending):
            return True
        if "." in os.path.basename(name):
            return False
        with open(self.root / name, "rb") as file:
            first = file.readline(128)
        return first.startswith(b"#!") and interpreter in os.path.basename(
            first.decode("latin-1").strip()
        )

    def text(self, name: str) -> str:
        return (self.root / name).read_text(encoding="utf-8", errors="replace")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=self.root, capture_output=True, text=True)


def includes(tree: Tree, name: str) -> Iterable[tuple[int, bool, str]]:
    """(line, in quotes, header) of each #include."""
    for number, line in enumerate(tree.text(name).splitlines(), 1):
        if match := INCLUDE.match(line):
            yield number, match[1] == '"', match[2]


def check_c_format(tree: Tree) -> Iterable[Finding]:
    """The first badly formatted line of each C file."""
    if not tree.c:
        return
    output = tree.run(
        "clang-format", "--dry-run", "-Werror", "--ferror-limit=1", *tree.c
    ).stderr
    for match in re.finditer(r"^(.+?):(\d+):\d+: error: ", output, re.M):
        yield Finding(
            match[1], int(match[2]), "formatting", f"clang-format -i {match[1]}"
        )


def layer_of(header: str, includer: str) -> str | None:
    """The folder of a quoted header; None: a system header in quotes."""
    if header.startswith("vine/"):
        return "include/vine"
    if "/" not in header:
        return os.path.dirname(includer)
    return os.path.dirname(os.path.normpath(header))


def check_layers(tree: Tree) -> Iterable[Finding]:
    for name in tree.c:
        folder = os.path.dirname(name)
        if folder not in LAYERS:
            continue
        allowed = LAYERS[folder] | {folder, "include/vine"}
        for line, quoted, header in includes(tree, name):
            if quoted and layer_of(header, name) not in allowed:
                yield Finding(
                    name,
                    line,
                    f'{folder} must not include "{header}"',
                    f"it may see {', '.join(sorted(allowed))}",
                )


def check_core(tree: Tree) -> Iterable[Finding]:
    for name in tree.c:
        if os.path.dirname(name) != CORE:
            continue
        for line, quoted, header in includes(tree, name):
            if not quoted and header not in CORE_HEADERS:
                yield Finding(
                    name,
                    line,
                    f"the core must not include <{header}>",
                    "the core has no system calls; let the edge do it",
                )


def check_doors(tree: Tree) -> Iterable[Finding]:
    for name in tree.c:
        for line, _, header in includes(tree, name):
            for library, doors in DOORS.items():
                known = header == library or (
                    not library.endswith(".h") and header.startswith(library)
                )
                if known and not name.startswith(doors + TEST_FOLDERS):
                    yield Finding(
                        name,
                        line,
                        f"<{header}> outside its door",
                        f"only {', '.join(doors)} may include it",
                    )


def c_functions(text: str) -> Iterable[tuple[int, str, int]]:
    """(line, name, lines) of each function; its braces stand in column 0."""
    start, name = 0, ""
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        if line == "{":
            head = " ".join(lines[max(0, number - 8) : number - 1])
            names = re.findall(r"(\w+)\s*\((?!\()", head.rpartition(";")[2])
            start, name = number, names[0] if names else "?"
        elif line == "}" and start:
            yield start, name, number - start + 1
            start = 0


def python_functions(text: str) -> Iterable[tuple[int, str, int]]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name, (node.end_lineno or 0) - node.lineno + 1


def check_sizes(tree: Tree) -> Iterable[Finding]:
    kinds: list[tuple[list[str], Callable[[str], Iterable[tuple[int, str, int]]]]] = [
        (tree.c, c_functions),
        (tree.python, python_functions),
        (tree.shell, lambda _: ()),
    ]
    for names, functions in kinds:
        for name in names:
            text = tree.text(name)
            count = text.count("\n")
            if count > FILE_LINES_MAX:
                what = f"file of {count} lines, limit {FILE_LINES_MAX}"
                yield Finding(name, 1, what, "split it by what it does")
            try:
                found = list(functions(text))
            except SyntaxError:
                continue  # ruff says it better
            for line, function, lines in found:
                if lines > FUNCTION_LINES_MAX:
                    what = f"{function} of {lines} lines, limit {FUNCTION_LINES_MAX}"
                    yield Finding(name, line, what, "take a part out")


def check_python(tree: Tree) -> Iterable[Finding]:
    if not tree.python:
        return
    ruff = str(Path(sys.executable).with_name("ruff"))
    found = tree.run(ruff, "check", "-q", "--output-format=concise", *tree.python)
    for match in re.finditer(r"^(.+?):(\d+):\d+: (.+)$", found.stdout, re.M):
        name = os.path.relpath(tree.root / match[1], tree.root)
        yield Finding(name, int(match[2]), match[3], "ruff check --fix may do it")
    form = tree.run(ruff, "format", "--check", "--output-format=concise", *tree.python)
    for match in re.finditer(r"^(.+?):(\d+):\d+: unformatted", form.stdout, re.M):
        line, mend = int(match[2]), f"ruff format {match[1]}"
        yield Finding(match[1], line, "formatting", mend)
    for result in (found, form):
        if result.returncode > 1:
            yield Finding("ruff.toml", 1, "ruff failed", result.stderr.strip())


def check_shell(tree: Tree) -> Iterable[Finding]:
    for name in tree.shell:
        output = tree.run("bash", "-n", name).stderr
        for match in re.finditer(r"^.+?: line (\d+): (.+)$", output, re.M):
            yield Finding(name, int(match[1]), match[2], "bash must be able to read it")


CHECKS = (
    check_c_format,
    check_layers,
    check_core,
    check_doors,
    check_sizes,
    check_python,
    check_shell,
)


def lint(root: Path) -> list[Finding]:
    tree = Tree(root)
    return sorted({finding for check in CHECKS for finding in check(tree)})


def main() -> int:
    root = Path(__file__).resolve().parent.parent
    findings = lint(root)
    for finding in findings:
        print(finding)
    tree = Tree(root)
    print(
        f"lint: {len(tree.c)} C, {len(tree.python)} Python and {len(tree.shell)} shell"
        f" files, {len(findings)} findings"
    )
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
