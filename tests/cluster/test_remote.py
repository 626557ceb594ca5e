"""Environments on servers: an sshd and an nginx on n1, jobs on other nodes."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from environments import make_environment, make_image, moved, totals
from servers import SSH_PORT, TLS_PORT, Servers, know, serving


@pytest.fixture
def servers(vine: Cluster, tmp_path: Path) -> Iterator[Servers]:
    with serving(vine, "n1", tmp_path) as made:
        yield made


def hello(path: str) -> list[str]:
    return ["sh", "-c", f"{shlex.quote(path)}/bin/vine-hello"]


def test_packed_image_by_sftp_is_fetched_by_one_node(servers: Servers) -> None:
    cluster = servers.cluster
    environment = make_environment(cluster, word="remote", ballast_bytes=20 << 20)
    name = servers.pack(environment.path)
    url = servers.sftp(name, f"#sha256={servers.digest(name)}")
    others = len(cluster.nodes) - 1
    before, logins = totals(cluster), servers.logins()
    job = ["-N", str(others), "-x", "n1", f"--vine-env={url}", *hello(environment.path)]
    result = cluster.srun(*job)
    assert result.out.count("remote /pfs") == others
    assert "warning" not in result.err
    assert servers.logins() - logins == 1
    again = cluster.srun(*job)  # the key is asked for, the file is not read
    assert again.out.count("remote /pfs") == others
    assert servers.logins() - logins == 2
    assert moved(before, totals(cluster))["bytes_built"] < 2 * (21 << 20)


def test_signature_of_an_image_counts_from_a_server_too(servers: Servers) -> None:
    cluster = servers.cluster
    by_daemon, by_nobody = make_environment(cluster), make_environment(cluster)
    image, _ = make_image(cluster, by_daemon)  # which signs it
    cluster.sh(
        "n1", f"cp {image} {servers.folder} && chmod 644 {servers.folder}/*.sqsh"
    )
    for kind, environment, name in (
        ("squashfs", by_daemon, image.rpartition("/")[2]),
        ("fuse.squashfuse", by_nobody, servers.pack(by_nobody.path)),
    ):
        look = ["findmnt", "-n", "-o", "FSTYPE", "--mountpoint", environment.path]
        url = servers.sftp(name)
        result = cluster.srun("-N2", "-x", "n1", f"--vine-env={url}", *look)
        assert result.out.split() == [kind, kind]


def test_archive_by_https_is_staged(servers: Servers) -> None:
    cluster = servers.cluster
    cluster.sh(
        "n1",
        f"mkdir {servers.folder}/tree && head -c 3000000 /dev/urandom > "
        f"{servers.folder}/tree/data && "
        f"tar -C {servers.folder}/tree -czf {servers.folder}/tree.tar.gz .",
    )
    data = cluster.sh("n1", f"sha256sum < {servers.folder}/tree/data")
    url = servers.https("tree.tar.gz")
    result = cluster.srun(
        "-N2", "-x", "n1", f"--vine-env={url}", "sh", "-c",
        "sha256sum < /run/vine/env/tree/data",
    )  # fmt: skip
    assert result.out == 2 * data
    staged = cluster.run("n2", "vine-env", "stage", url, user="vine1")
    assert staged.out.startswith(url)


def test_stage_says_what_is_wrong(servers: Servers) -> None:
    cluster = servers.cluster
    environment = make_environment(cluster)
    name = servers.pack(environment.path)
    key = cluster.sh("n1", f"cat {servers.folder}/host_key.pub").strip()

    def refused(url: str) -> str:
        said = cluster.run("n2", "vine-env", "stage", url, user="vine1", check=False)
        assert said.code != 0
        return said.err

    (servers.home / ".ssh" / "known_hosts").write_text("")
    assert f"known_hosts: [n1]:{SSH_PORT} {key}" in refused(servers.sftp(name))
    know(servers, "ssh-ed25519 " + "A" * 68)
    assert "not the one in known_hosts" in refused(servers.sftp(name))
    know(servers, key)
    wrong = hashlib.sha256().hexdigest()
    assert "not the one in #sha256=" in refused(servers.sftp(name, f"#sha256={wrong}"))
    assert "does not exist" in refused(servers.sftp("none.sqsh"))
    cluster.run("n1", "chmod", "600", f"{servers.folder}/{name}")
    assert "permission denied" in refused(servers.sftp(name))
    cluster.run("n1", "chmod", "644", f"{servers.folder}/{name}")
    assert "is not valid" in refused(f"https://10.77.0.11:{TLS_PORT}/{name}")
    cluster.run("n2", "vine-env", "stage", servers.sftp(name), user="vine1")


def test_job_without_its_server_says_that_it_runs_without(servers: Servers) -> None:
    cluster = servers.cluster
    url = servers.sftp("none.sqsh")
    job = ["-N1", "-w", "n2", f"--vine-env={url}"]
    result = cluster.srun(*job, "echo", "ran")
    assert result.out == "ran\n"
    assert f"running without '{url}'" in result.err
    failed = cluster.srun(*job, "--vine-fallback=fail", "echo", "ran", check=False)
    assert failed.code != 0 and "does not exist" in failed.err


def test_one_users_key_opens_nothing_for_another(servers: Servers) -> None:
    cluster = servers.cluster
    environment = make_environment(cluster)
    name = servers.pack(environment.path)
    cluster.run("n2", "vine-env", "stage", servers.sftp(name), user="vine1")
    said = cluster.run(
        "n2", "vine-env", "stage", servers.sftp(name), user="vine2", check=False
    )
    assert said.code != 0
    assert "host key of 'n1' is not known" in said.err


def test_server_that_restarts_while_it_is_read(servers: Servers) -> None:
    cluster = servers.cluster
    environment = make_environment(cluster, word="long", ballast_bytes=60 << 20)
    name = servers.pack(environment.path)
    url = servers.sftp(name)
    cluster.shape("n2", "80mbit")
    stage = cluster.popen("n2", "vine-env", "stage", url, user="vine1")

    cluster.wait_for(lambda: servers.logins() > 0, 20, "the first connection")
    # A session's monitor takes its session with it.
    restart = (
        f"pid=$(cat {servers.folder}/sshd.pid); kill $(pgrep -P $pid) $pid; "
        f"/usr/sbin/sshd -f {servers.folder}/sshd_config -E {servers.folder}/sshd.log"
    )
    cluster.sh("n1", restart)
    assert stage.wait(120).code == 0
    assert servers.logins() >= 2
    result = cluster.srun(
        "-N1", "-w", "n2", f"--vine-env={url}", *hello(environment.path)
    )
    assert result.out.startswith("long /pfs")


def test_data_by_sftp_appears_where_it_is_wanted(servers: Servers) -> None:
    cluster = servers.cluster
    there = f"{servers.folder}/values.h5"
    cluster.sh("n1", f"head -c 5000000 /dev/urandom > {there}; chmod 644 {there}")
    digest = cluster.sh("n1", f"sha256sum < {there}")
    url = servers.sftp("values.h5", f"#sha256={digest.split()[0]}")
    cluster.run("n1", "touch", "/home/vine1/values.h5", user="vine1")
    job = ["-x", "n1", f"--vine-data={url}:/home/vine1/values.h5"]
    result = cluster.srun("-N2", *job, "sha256sum", "/home/vine1/values.h5")
    assert result.out.count(digest.split()[0]) == 2
    assert servers.logins() == 1
    cluster.run("n2", "vine-env", "stage", "--data", url, user="vine1")
    bare = cluster.srun("-N1", f"--vine-data={url}", "true", check=False)
    assert bare.code != 0 and "add ':' and where it goes" in bare.err
    cluster.run("n1", "rm", there)
    without = cluster.srun("-N1", "-w", "n2", job[-1], "echo", "ran")
    assert without.out == "ran\n" and "running without 'sftp://" in without.err


def test_logs_have_no_login(servers: Servers) -> None:
    cluster = servers.cluster
    environment = make_environment(cluster)
    name = servers.pack(environment.path)
    url = servers.sftp(name).replace("sftp://", "sftp://vine1@")
    cluster.run("n2", "vine-env", "stage", url, user="vine1")
    log = cluster.log("n2")
    assert name in log
    assert "vine1@" not in log


@pytest.mark.parametrize("way", ["sftp", "https"])
def test_a_task_gets_a_file_from_a_server(servers: Servers, way: str) -> None:
    """One login for all nodes; the file's name is that of the URL."""
    cluster = servers.cluster
    folder = servers.folder
    data = cluster.sh(
        "n1", f"seq 200000 > {folder}/n.txt && sha256sum < {folder}/n.txt"
    )
    url = servers.sftp("n.txt") if way == "sftp" else servers.https("n.txt")
    logins = servers.logins()
    script = f'p=$(vine-env get {url}) && sha256sum < "$p" && echo "${{p##*/}}"'
    result = cluster.srun("-N2", "-x", "n1", "sh", "-c", script)
    assert sorted(result.out.split()) == sorted(2 * [*data.split(), "n.txt"])
    assert servers.logins() - logins == (way == "sftp")
    missing = cluster.srun(
        "-N1", "-x", "n1", "vine-env", "get", url.replace("n.txt", "none"), check=False
    )
    assert missing.code != 0 and "none" in missing.err
