"""VineSlurmProvider and doctor, without a cluster."""

from __future__ import annotations

import shlex
import warnings
from pathlib import Path

import pytest
from parsl.config import Config
from parsl.executors import HighThroughputExecutor, ThreadPoolExecutor
from parsl.providers import SlurmProvider
from vine_env import SpecError, VineSlurmProvider, doctor


def make_sbatch(folder: Path, options: str) -> None:
    """An sbatch that knows these options, and prints the script it is given."""
    script = folder / "sbatch"
    script.write_text(
        "#!/bin/sh\n"
        f'if [ "$1" = --help ]; then echo "{options}"; exit 0; fi\n'
        f'cp "$1" {folder}/submitted; echo "Submitted batch job 7"\n'
    )
    script.chmod(0o755)


def make_vine_env(folder: Path, answer: str, status: int) -> None:
    """What `vine-env status --json` prints on this host."""
    script = folder / "vine-env"
    script.write_text(f"#!/bin/sh\necho '{answer}'\necho why >&2\nexit {status}\n")
    script.chmod(0o755)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    make_sbatch(tmp_path, "--vine-env=SRC --vine-data=SRC")
    make_vine_env(tmp_path, "{}", 0)
    return tmp_path


def submitted(site: Path, provider: SlurmProvider) -> list[str]:
    """The #SBATCH words of a job, as sbatch takes them apart."""
    provider.script_dir = str(site)
    assert provider.submit("true", 1) == "7"
    lines = (site / "submitted").read_text().splitlines()
    words = [shlex.split(x[8:], comments=True) for x in lines if x[:8] == "#SBATCH "]
    return [word for line in words for word in line if word.startswith("--vine")]


def test_the_options_reach_sbatch(site: Path) -> None:
    provider = VineSlurmProvider(
        vine_env="/shared/envs/ml,/data/x y:/in",
        vine_start="lazy",
        vine_fallback="fail",
        vine_quiet=True,
        scheduler_options="#SBATCH --comment=mine",
    )
    assert submitted(site, provider) == [
        "--vine-env=/shared/envs/ml,/data/x y:/in",
        "--vine-start=lazy",
        "--vine-fallback=fail",
        "--vine-quiet",
    ]
    assert "#SBATCH --comment=mine\n" in (site / "submitted").read_text()
    # A second block's job has them once, too.
    assert len(submitted(site, provider)) == 4


def test_data_goes_with_an_environment_or_alone(site: Path) -> None:
    data = "/shared/sets/a b.h5:/in"
    both = VineSlurmProvider(vine_env="/shared/envs/ml", vine_data=data)
    words = ["--vine-env=/shared/envs/ml", f"--vine-data={data}"]
    assert submitted(site, both) == words
    alone = VineSlurmProvider(vine_data=data, vine_quiet=True)
    assert submitted(site, alone) == [words[1], "--vine-quiet"]
    make_sbatch(site, "--vine-env=SRC")  # an older plugin
    assert submitted(site, VineSlurmProvider(vine_env="/a")) == ["--vine-env=/a"]
    with pytest.warns(UserWarning, match="sbatch has no option --vine-data here"):
        assert submitted(site, VineSlurmProvider(vine_data=data)) == []


def test_an_sbatch_that_did_not_answer_is_asked_again(
    site: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What was busy for a moment costs one job its environment, not the workflow."""
    make_sbatch(site, "")
    script = (site / "sbatch").read_text()
    (site / "sbatch").write_text(script.replace("exit 0", "echo busy >&2; exit 1"))
    provider = VineSlurmProvider(vine_env="/shared/envs/ml")
    config = Config(executors=[HighThroughputExecutor(provider=provider)])
    assert "does not answer" in str(doctor(config)[0])
    assert submitted(site, provider) == []
    assert "cannot ask sbatch for its options: busy" in caplog.text
    make_sbatch(site, "--vine-env=SRC")
    assert submitted(site, provider) == ["--vine-env=/shared/envs/ml"]


def test_without_vine_env_it_is_a_slurm_provider(site: Path) -> None:
    assert submitted(site, VineSlurmProvider()) == []


@pytest.mark.parametrize("text", ["/a b/c", "/a\\,b", "/it's", '/say "x"', "/a#b"])
def test_odd_paths_arrive(site: Path, text: str) -> None:
    assert submitted(site, VineSlurmProvider(vine_env=text)) == [f"--vine-env={text}"]


def test_mistakes_are_refused_at_once() -> None:
    with pytest.raises(SpecError, match="is not an absolute path; write SRC"):
        VineSlurmProvider(vine_env="envs/ml")
    with pytest.raises(SpecError, match="for example --vine-data="):
        VineSlurmProvider(vine_data="a.h5")
    with pytest.raises(SpecError, match="destination '/a' is named twice"):
        VineSlurmProvider(vine_env="/a", vine_data="/b:/a")
    with pytest.raises(ValueError, match="vine_start takes full or lazy, not 'fast'"):
        VineSlurmProvider(vine_env="/a", vine_start="fast")
    with pytest.raises(ValueError, match="vine_fallback takes origin or fail"):
        VineSlurmProvider(vine_env="/a", vine_fallback="")


def test_a_site_without_the_plugin_is_warned_of_once(site: Path) -> None:
    make_sbatch(site, "--comment=TEXT")
    provider = VineSlurmProvider(vine_env="/shared/envs/ml")
    with pytest.warns(UserWarning, match="sbatch has no option --vine-env here"):
        assert submitted(site, provider) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert submitted(site, provider) == []


def findings(provider: SlurmProvider) -> list[str]:
    executor = HighThroughputExecutor(label="vine", provider=provider)
    return [str(finding) for finding in doctor(Config(executors=[executor]))]


def test_doctor_is_content(site: Path) -> None:
    init = f"export A=1\nsource {site}/bin/activate"
    assert findings(VineSlurmProvider(vine_env=str(site), worker_init=init)) == [
        "ok: sbatch knows --vine-env",
        f"ok: vine: source '{site}'",
        f"ok: vine: workers activate '{site}', which is staged",
    ]
    by_hand = SlurmProvider(scheduler_options=f"#SBATCH --vine-env={site}")
    assert findings(by_hand)[1:] == [f"ok: vine: source '{site}'"]
    with_data = VineSlurmProvider(vine_data=f"{site}/sbatch", worker_init=init)
    assert findings(with_data)[1] == f"ok: vine: source '{site}/sbatch'"


DOWN = '{"error": {"code": "edown", "text": "no daemon answers"}}'
OTHER = '{"error": {"code": "eproto", "text": "another release"}}'


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (DOWN, "ok: no vined runs on this host: normal for a login node"),
        (None, "ok: no vine-env on this host: normal for a login node"),
        (OTHER, "warning: `vine-env status` fails here: another release"),
        ("no document", "warning: `vine-env status` fails here: why"),
        ("[]", "warning: `vine-env status` fails here: why"),
    ],
)
def test_doctor_goes_on_without_a_daemon(
    site: Path, answer: str | None, said: str
) -> None:
    """On a login node: what can be looked at from there is."""
    if answer is None:
        (site / "vine-env").unlink()
    else:
        make_vine_env(site, answer, 1)
    init = f"source {site}/bin/activate"
    found = findings(VineSlurmProvider(vine_env=str(site), worker_init=init))
    assert found[0] == "ok: sbatch knows --vine-env"
    assert found[1].startswith(said)
    assert found[2:] == [
        f"ok: vine: source '{site}'",
        f"ok: vine: workers activate '{site}', which is staged",
    ]
    (site / "sbatch").unlink()
    told = findings(VineSlurmProvider(vine_env="/no/such"))
    assert told[1].startswith(said)
    assert "error: vine: source '/no/such' does not exist here" in told


def test_an_sbatch_that_hung_once_is_asked_again(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vine_env.provider.HELP_SECONDS", 0.2)
    known = (site / "sbatch").read_text()
    (site / "sbatch").write_text(known.replace("exit 0", "exec sleep 60"))
    provider = VineSlurmProvider(vine_env="/shared/envs/ml")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is said of a plugin that lacks
        assert submitted(site, provider) == []
    (site / "sbatch").write_text(known)
    assert submitted(site, provider) == ["--vine-env=/shared/envs/ml"]
    assert submitted(site, provider) == ["--vine-env=/shared/envs/ml"]


def test_doctor_names_what_is_wrong(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "error: vine: source '/no/such' does not exist here" in findings(
        VineSlurmProvider(vine_env="/no/such")
    )
    other = findings(
        VineSlurmProvider(vine_env=str(site), worker_init=". /other/bin/activate")
    )
    assert "workers activate '/other', which is none of what is staged" in other[-1]
    assert "vine-env is not asked for" in findings(SlurmProvider())[-1]
    wrong = SlurmProvider(scheduler_options="#SBATCH --vine-env=rel\n")
    assert (
        "error: vine: --vine-env=rel: 'rel' is not an absolute" in findings(wrong)[-1]
    )
    wrong_data = SlurmProvider(scheduler_options="#SBATCH --vine-data=rel\n")
    assert "error: vine: --vine-data=rel: 'rel' is not" in findings(wrong_data)[-1]
    make_sbatch(site, "")
    assert findings(wrong)[0].startswith("error: sbatch has no option --vine-env")
    (site / "sbatch").unlink()
    monkeypatch.setenv("PATH", str(site))
    assert findings(wrong)[0].startswith("error: no sbatch in PATH")
    threads = doctor(Config(executors=[ThreadPoolExecutor()]))
    assert "vine-env works under Slurm" in threads[-1].text
