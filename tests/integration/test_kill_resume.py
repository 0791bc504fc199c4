"""Whatever ends a dry run, nothing of it goes on, and the next one goes on from where it was."""

import json
import signal
from pathlib import Path

import pytest

from tests.commands import TINY, Command, llava_av, trained_steps

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

_START_S = 240


def _dryrun(folder: Path, *more: str) -> list[str]:
    return ["dryrun", "--quick", "--output-dir", str(folder), *TINY, *more]


def _start(folder: Path) -> Command:
    folder.mkdir(parents=True, exist_ok=True)
    return Command(_dryrun(folder), log=folder.with_suffix(".log"))


def _summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def _trained(folder: Path) -> int | None:
    """The step that the last training went on from, by its log."""
    log = folder / "state" / "work"
    return len(list(log.glob("*")))


def test_killed_run_resumes_to_the_digest_of_an_undisturbed_one_beside_it(tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    calm, hit = _start(undisturbed), _start(killed)
    hit.wait_until(lambda: trained_steps(killed) >= 6, _START_S)
    hit.process.send_signal(signal.SIGKILL)
    assert hit.wait(15) == -signal.SIGKILL
    hit.assert_gone()
    assert not (killed / "summary.json").exists()
    assert calm.wait(_START_S) == 0, calm.output()
    calm.assert_gone()

    code, output = llava_av(_dryrun(killed), tmp_path)
    assert code == 0, output
    assert "goes on from step" in (killed / "logs" / "training.log").read_text()
    ours, theirs = _summary(killed), _summary(undisturbed)
    assert ours["checkpoint"]["digest"] == theirs["checkpoint"]["digest"]
    assert ours["dataset_commit"] == theirs["dataset_commit"]
    assert ours["accuracy"] == theirs["accuracy"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_training_leaves_no_process(tmp_path: Path, number: int, code: int) -> None:
    command = _start(tmp_path / "run")
    command.wait_until(lambda: trained_steps(tmp_path / "run") >= 1, _START_S)
    command.process.send_signal(number)
    assert command.wait(15) == code, command.output()
    command.assert_gone()
    assert "Traceback" not in command.output()


@pytest.mark.parametrize("place", ["state/lock", "logs/pipeline.log", "state/work/*/demo.unfinished.json"])
def test_kill_at_other_moments_leaves_no_process(tmp_path: Path, place: str) -> None:
    command = _start(tmp_path / "run")
    command.wait_until(lambda: any((tmp_path / "run").glob(place)), _START_S)
    command.process.send_signal(signal.SIGKILL)
    command.wait(15)
    command.assert_gone()
