"""The transfer log of a job, and the page made of it."""

from __future__ import annotations

import json
import re
import shlex
import stat
import subprocess
import uuid
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, Result
from environments import make_environment
from PIL import Image  # matplotlib brings it

LOG = "/run/vine-transfers"
HOSTILE = "\"'><script>alert(1)</script>&é"
FIGURES = ["timeline", "tree", "bytes"]


def report(vine: Cluster, *words: str, user: str = "vine1") -> Result:
    return vine.run("n1", "vine-env", "report", *words, user=user, check=False)


def stories_of(vine: Cluster, job: int, count: int) -> list[dict[str, Any]]:
    """The job's lines, once each node has said its own."""

    def said() -> list[dict[str, Any]] | None:
        result = report(vine, str(job), "--json")
        lines = json.loads(result.out).get("stories", []) if result.out else []
        return lines if len(lines) >= count else None

    found = vine.wait_for(said, 20, f"{count} lines of job {job}")
    assert len(found) == count
    return list(found)


def run_job(vine: Cluster, path: str, *options: str) -> int:
    nodes = len(vine.nodes)
    out = vine.srun(
        f"-N{nodes}", *options, f"--vine-env={path}", "printenv", "SLURM_JOB_ID"
    ).out
    assert len(out.split()) == nodes
    return int(out.split()[0])


class Page(HTMLParser):
    """What a reader of the page finds in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        for name, value in attrs:
            assert not name.startswith("on"), (name, value)
            assert name not in ("src", "href"), (name, value)

    def handle_data(self, data: str) -> None:
        self.text += data


def make_page(vine: Cluster, job: int, *options: str) -> Page:
    result = report(vine, str(job), "-o", "-", *options).checked()
    return Page(result.out)


def test_each_byte_of_each_node_has_a_sender(vine: Cluster) -> None:
    env = make_environment(vine, ballast_bytes=8 << 20)
    job = run_job(vine, env.path)
    stories = stories_of(vine, job, len(vine.nodes))
    assert sorted(s["node"] for s in stories) == sorted(vine.nodes)
    assert {s["path"] for s in stories} == {env.path}
    assert {s["code"] for s in stories} == {"ok"}
    size = stories[0]["size"]
    assert size > 8 << 20
    for story in stories:
        rows = story["from"]
        assert sum(row["bytes"] for row in rows) == size
        for row in rows:
            assert (row["kind"] == "peer") == (row["peer"] != "")
            assert row["peer"] in ("", *vine.nodes)
            assert row["peer"] != story["node"]
            assert story["begun_ms"] <= row["first_ms"] <= row["last_ms"]
        assert story["wanted_ms"] <= story["begun_ms"] <= story["ended_ms"]
    built = [s["node"] for s in stories if s["from"][0]["kind"] == "built"]
    assert len(built) == 1  # the shared file system was read once
    page = make_page(vine, job)
    assert set(FIGURES) <= set(page.ids)
    assert "script" not in page.tags
    assert "no-tasks" in page.ids
    for node in vine.nodes:
        assert node in page.text
    assert "1.00 times the size" in page.text


def test_a_second_job_had_it_already(vine: Cluster) -> None:
    env = make_environment(vine)
    run_job(vine, env.path)
    job = run_job(vine, env.path)
    for story in stories_of(vine, job, len(vine.nodes)):
        assert [row["kind"] for row in story["from"]] == ["here"]
        assert story["from"][0]["bytes"] == story["size"]
    assert "already on the node" in make_page(vine, job).text


def test_only_its_user_and_root_see_a_job(vine: Cluster) -> None:
    job = run_job(vine, make_environment(vine).path)
    stories_of(vine, job, len(vine.nodes))
    for options in (["--json"], ["-o", "-"]):
        refused = report(vine, str(job), *options, user="vine2")
        assert refused.code == 1
        assert f"job {job} is another user's" in refused.err
        assert "/pfs" not in refused.out + refused.err
    assert report(vine, str(job), "-o", "-", user="root").code == 0
    folder = vine.root("ctl") / LOG.lstrip("/")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for file in folder.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    unknown = report(vine, "99999999", "--json")
    assert unknown.code == 1
    assert "has nothing of job 99999999" in unknown.err


def test_names_cannot_write_into_the_page(vine: Cluster) -> None:
    folder = f"/pfs/home/vine1/envs/{HOSTILE.replace('/', ';')}"
    env = make_environment(vine)
    vine.run("n1", "mv", env.path, folder, user="vine1")
    job = run_job(vine, folder)
    stories_of(vine, job, len(vine.nodes))
    page = make_page(vine, job)
    assert "script" not in page.tags
    assert folder in page.text


@pytest.fixture
def times(vine: Cluster) -> Iterator[str]:
    """The path of a file of n1 that does not exist."""
    path = f"/tmp/times-{uuid.uuid4().hex}"
    yield path
    vine.sh("n1", f"rm -f {path}")


def test_the_file_of_task_times(vine: Cluster, times: str) -> None:
    job = run_job(vine, make_environment(vine).path)
    stories_of(vine, job, len(vine.nodes))
    lines = "".join(f"before,{4 + i / 10}\nafter,{1 + i / 10}\n" for i in range(11))
    vine.sh("n1", f"printf '{lines}' > {times} && chmod 644 {times}")
    page = make_page(vine, job, "--tasks", times)
    assert "tasks" in page.ids and "no-tasks" not in page.ids
    words = " ".join(page.text.split())
    assert re.search(r"without vine-env 11 tasks, half of them within 4\.50 s", words)
    assert re.search(r"with vine-env 11 tasks, half of them within 1\.50 s", words)
    tiny = '{"after": [1e-323], "before": [0]}'
    vine.sh("n1", f"echo {shlex.quote(tiny)} > {times}")
    assert "tasks" in make_page(vine, job, "--tasks", times).ids


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("after,1\nafter,often\n", "', line 2: the form is before,SECONDS"),
        ("after,1e10\n", "', line 1: a task cannot take 1e+10 seconds"),
        ('{"after": [1, 1e300]}', "': 'after': a task cannot take 1e+300 seconds"),
        ('{"after": 3}', "': 'after' is a list of seconds"),
        ('{"after": [1, "x"]}', "'after' is a list of seconds, number 2 is none"),
        ('{"afer": [1]}', "': 'afer' is neither 'before' nor 'after'"),
        ('{"after": []}', "' has no tasks"),
    ],
)
def test_a_wrong_file_of_task_times(
    vine: Cluster, times: str, content: str, told: str
) -> None:
    """What was there as page stays."""
    job = run_job(vine, make_environment(vine).path)
    stories_of(vine, job, len(vine.nodes))
    vine.sh("n1", f"printf %s {shlex.quote(content)} > {times}")
    output = f"/pfs/home/vine1/{uuid.uuid4().hex}.html"
    vine.sh("n1", f"echo before > {output} && chown vine1: {output}")
    wrong = report(vine, str(job), "-o", output, "--tasks", times)
    assert wrong.code == 1
    assert told in wrong.err
    assert vine.sh("n1", f"cat {output}").strip() == "before"


def test_a_page_is_replaced_whole(vine: Cluster) -> None:
    """Or written into what is no file; nothing of a failed one is left."""
    job = run_job(vine, make_environment(vine).path)
    stories_of(vine, job, len(vine.nodes))
    folder = f"/pfs/home/vine1/{uuid.uuid4().hex}"
    vine.sh("n1", f"install -d -o vine1 {folder} && mkdir {folder}/dir")
    vine.sh("n1", f"echo before > {folder}/page && chown vine1: {folder}/page")
    before = vine.sh("n1", f"stat -c %i {folder}/page")
    assert report(vine, str(job), "-o", f"{folder}/page").code == 0
    assert "</html>" in vine.sh("n1", f"cat {folder}/page")
    assert vine.sh("n1", f"stat -c %i {folder}/page") != before
    piped = f"vine-env report {job} -o /dev/stdout | cat"
    assert "</html>" in vine.run("n1", "sh", "-c", piped, user="vine1").out
    wrong = report(vine, str(job), "-o", f"{folder}/dir")
    assert wrong.code == 1 and f"cannot write '{folder}/dir'" in wrong.err
    assert sorted(vine.sh("n1", f"ls {folder}").split()) == ["dir", "page"]


def test_an_old_page_survives_a_full_disk(vine: Cluster) -> None:
    """And its mode and the link that leads to it survive the new one."""
    job = run_job(vine, make_environment(vine).path)
    stories_of(vine, job, len(vine.nodes))
    folder = f"/pfs/home/vine1/{uuid.uuid4().hex}"
    script = 'mkdir "$0" && cd "$0" && echo before > page && chmod 640 page'
    vine.run("n1", "sh", "-c", f"{script} && ln -s page link", folder, user="vine1")
    limited = 'trap \'\' XFSZ; ulimit -f 1; exec vine-env report "$0" -o "$1"'
    words = ["bash", "-c", limited, str(job), f"{folder}/page"]  # 1 kB, no more
    full = vine.run("n1", *words, user="vine1", check=False)
    assert full.code == 1
    assert f"cannot write '{folder}/page'" in full.err
    assert vine.sh("n1", f"cat {folder}/page") == "before\n"
    assert sorted(vine.sh("n1", f"ls -A {folder}").split()) == ["link", "page"]
    assert report(vine, str(job), "-o", f"{folder}/link").code == 0
    assert "</html>" in vine.sh("n1", f"cat {folder}/page")
    kinds = vine.sh("n1", f"stat -c '%F %a' {folder}/page {folder}/link")
    assert kinds == "regular file 640\nsymbolic link 777\n"


def test_a_node_that_gave_up_is_not_said_to_have_it(vine: Cluster) -> None:
    """Whichever it was; in the log only: how nodes give up has tests of its own."""
    job = run_job(vine, make_environment(vine).path)
    stories_of(vine, job, len(vine.nodes))
    assert "until the last node had it (" in make_page(vine, job).text
    change = '0,/"code":"ok"/s//"code":"etimedout"/'
    vine.sh("ctl", f"sed -i '{change}' {LOG}/{job}.*.jsonl")
    page = make_page(vine, job)
    assert "until the last node had it or gave up: 1 gave up" in page.text
    assert "1 gave up (etimedout)" in page.text


def test_the_oldest_jobs_go(vine: Cluster) -> None:
    """A thousand are kept; nothing but the log's own files is touched."""
    old = f"touch -d @$i {LOG}/$((800000000 + i)).1.jsonl"
    vine.sh(
        "ctl", f"cd {LOG} && touch -d @1 notes && for i in {{1..1000}}; do {old}; done"
    )
    try:
        job = run_job(vine, make_environment(vine).path)
        stories_of(vine, job, len(vine.nodes))
        names = set(vine.sh("ctl", f"ls {LOG}").split())
    finally:
        vine.sh("ctl", f"rm -f {LOG}/notes {LOG}/80*.1.jsonl")
    assert len(names - {"notes"}) == 1000
    assert "notes" in names
    assert "800000001.1.jsonl" not in names
    assert "800001000.1.jsonl" in names


WIDTH, HEIGHT = 1280, 1800
# What the page's style says: the shared file system, other nodes.
ORANGE, BLUE = (0xE0, 0x7B, 0x39), (0x2F, 0x74, 0xB5)


def chromium(folder: Path, page: Path, *options: str) -> subprocess.CompletedProcess:
    """As a reader has it, but without a window; says what the console says."""
    words = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu"]
    words += ["--hide-scrollbars", "--disable-dev-shm-usage", "--no-first-run"]
    words += ["--disable-background-networking", "--enable-logging=stderr"]
    words += [
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={WIDTH},{HEIGHT}",
    ]
    return subprocess.run(
        [*words, *options, page.as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=90,
    )


def columns_with(picture: Image.Image, colour: tuple[int, int, int]) -> list[int]:
    """Where it is seen; a pixel or two of an edge do not count."""
    found = []
    for x in range(picture.width):
        column = picture.crop((x, 0, x + 1, picture.height)).getcolors(65536) or []
        if sum(count for count, shade in column if shade == colour) > 2:
            found.append(x)
    return found


def test_a_browser_shows_every_figure(vine: Cluster, tmp_path: Path) -> None:
    job = run_job(vine, make_environment(vine, ballast_bytes=8 << 20).path)
    stories_of(vine, job, len(vine.nodes))
    lines = "".join(f"before,{4 + i / 10}\nafter,{1 + i / 10}\n" for i in range(11))
    vine.sh("n1", f"printf '{lines}' > /tmp/times && chmod 644 /tmp/times")
    result = report(vine, str(job), "-o", "-", "--tasks", "/tmp/times").checked()
    page = tmp_path / "report.html"
    page.write_text(result.out)
    seen = chromium(tmp_path, page, "--dump-dom")
    assert "CONSOLE" not in seen.stderr
    assert {*FIGURES, "tasks"} <= set(Page(seen.stdout).ids)
    shot = tmp_path / "report.png"
    assert "CONSOLE" not in chromium(tmp_path, page, f"--screenshot={shot}").stderr
    picture = Image.open(shot).convert("RGB")
    assert picture.size == (WIDTH, HEIGHT)
    for colour in (ORANGE, BLUE):
        places = columns_with(picture, colour)
        assert places and places[0] > 0 and places[-1] < WIDTH - 1


def test_the_console_is_listened_to(tmp_path: Path) -> None:
    """Else the test before would find no error in any page."""
    page = tmp_path / "wrong.html"
    page.write_text("<script>nothing.there()</script>")
    assert "CONSOLE" in chromium(tmp_path, page, "--dump-dom").stderr


@pytest.mark.parametrize(
    "words", ["", "7", "7 8 -o x", "x -o x", "0 -o x", "-1 -o x", "7 -o x --json"]
)
def test_wrong_usage(vine: Cluster, words: str) -> None:
    result = report(vine, *words.split())
    assert result.code == 2
    assert result.out == ""
