"""Help, man pages and bash completion know the same commands and options."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from conftest import REPO

BUILD = Path(os.environ.get("VINE_BUILD", REPO / "build"))
PROGRAM = BUILD / "vine-env"
PAGES = sorted((REPO / "man").glob("*.[1-9]"))
# Set the line as readline would, call the function, print what it offers.
COMPLETE = """
. {script}
COMP_WORDS=({words})
COMP_CWORD=$(({count} - 1))
_vine_env
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def said(*words: str) -> str:
    done = subprocess.run([PROGRAM, *words], capture_output=True, text=True, check=True)
    return done.stdout


def commands() -> list[str]:
    return re.findall(r"^  ([a-z]+)  ", said("--help"), re.M)


def options(command: str) -> dict[str, str]:
    """Long name and what it takes; "" a flag."""
    found = re.findall(
        r"^  (?:-.,|   ) (--[a-z-]+) ?(\S*)  ", said(command, "--help"), re.M
    )
    return dict(found)


def complete(*words: str, folder: Path = REPO) -> set[str]:
    script = COMPLETE.format(
        script=REPO / "contrib/completion/vine-env",
        words=" ".join(f"'{word}'" for word in (PROGRAM, *words)),
        count=len(words) + 1,
    )
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
    )
    assert done.stderr == ""
    return set(done.stdout.split())


def test_every_command_is_completed() -> None:
    assert len(commands()) >= 8
    assert complete("") == {*commands(), "--help", "--version"}
    assert complete("sta") == {name for name in commands() if name.startswith("sta")}
    assert complete("frobnicate", "--") == set()


def test_every_option_is_completed() -> None:
    for command in commands():
        known = set(options(command))
        assert {"--json", "--help"} <= known
        assert complete(command, "--") == known, command
    assert complete("pack", "--fo") == {"--force"}


def test_what_options_take_is_completed(tmp_path: Path) -> None:
    (tmp_path / "a.sqsh").touch()
    for words in (
        ["pack", "/x", "-o", ""],
        ["pack", "/x", "--output", ""],
        ["pack", ""],
        ["status", "--socket", ""],
        ["pack", "--force", ""],
        ["trace", "--json", "--", "python", ""],
        ["trace", "--", "python", "-o", ""],
    ):
        assert complete(*words, folder=tmp_path) == {"a.sqsh"}, words
    assert complete("stage", "/x", "--nodes", "", folder=tmp_path) == set()
    assert complete("pack", "--exclude", "", folder=tmp_path) == set()


def page(path: Path) -> str:
    """As text, without the marks of roff."""
    return re.sub(r'\\f[A-Z]|"', " ", path.read_text().replace("\\-", "-"))


def test_every_option_has_its_place_in_the_manual() -> None:
    text = page(REPO / "man/vine-env.1")
    for command in commands():
        assert re.search(rf"\b{command}\b", text)
        for option in options(command):
            assert option in text, f"{command} {option}"


def test_every_program_and_file_has_a_page() -> None:
    names = {path.name.rpartition(".")[0] for path in PAGES}
    programs = {path.name for path in BUILD.glob("vine*") if os.access(path, os.X_OK)}
    programs = {name for name in programs if (BUILD / name).is_file()}
    assert len(programs) >= 7
    for name in programs:
        assert name.removesuffix(".so") in names
    assert "vine-env.conf" in names


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_is_well_formed(path: Path) -> None:
    words = ["mandoc", "-T", "lint", "-W", "warning", path]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stdout == ""
    text = path.read_text()
    sections = re.findall(r"^\.SH (.*)", text, re.M)
    assert sections[0] == "NAME"
    assert sections[-1] == "SEE ALSO"
    for name, number in re.findall(r"\.BR (\S+) \((\d)\)", text):
        plain = name.replace("\\-", "-")
        assert (
            not plain.startswith(("vine", "vined"))
            or (REPO / f"man/{plain}.{number}").exists()
        ), f"{path.name} names {plain}({number})"
