"""A killed dry run leaves no process behind, and the next run resumes where it stopped."""

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_av.workflows.runtime.workspace import STEPS
from tests.commands import TINY, Command, llava_av, trained_steps

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(1800)]

_START_S = 480


def _dryrun(folder: Path, *more: str) -> list[str]:
    # A save waits for the one before, so the checkpoint after two steps is whole when the fifth begins.
    often = "--set=training.checkpoint_interval=2"
    return ["dryrun", "--quick", "--output-dir", str(folder), *TINY, often, *more]


def _start(folder: Path) -> Command:
    folder.mkdir(parents=True, exist_ok=True)
    return Command(_dryrun(folder), log=folder.with_suffix(".log"))


def _summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def _end_when(folder: Path, reached: Callable[[], bool], number: int) -> int:
    """Start a run, send it a signal once `reached`, see that nothing of it goes on; its exit code."""
    for journal in folder.glob("state/work/*/metrics.jsonl"):
        journal.unlink()  # so that what the run before left is not taken for this one's steps
    command = _start(folder)
    command.wait_until(reached, _START_S)
    command.process.send_signal(number)
    code = command.wait(15)
    command.assert_gone()
    assert "Traceback" not in command.output()
    told = "run the same command again to resume" in command.output()
    assert told == (number != signal.SIGKILL)
    assert not (folder / "summary.json").exists()
    return code


def test_run_that_is_ended_again_and_again_comes_to_the_digest_of_an_undisturbed_one(tmp_path: Path) -> None:
    calm_folder, folder = tmp_path / "calm", tmp_path / "hit"
    calm = _start(calm_folder)  # beside the other: neither may disturb the other

    def there(pattern: str) -> Callable[[], bool]:
        return lambda: any(folder.glob(pattern))

    def trained(steps: int) -> Callable[[], bool]:
        return lambda: trained_steps(folder) >= steps

    kill = signal.SIGKILL
    assert _end_when(folder, there("state/lock"), kill) == -kill
    assert _end_when(folder, there("state/work/*/demo.unfinished.json"), signal.SIGTERM) == 143
    assert _end_when(folder, trained(1), signal.SIGINT) == 130
    assert _end_when(folder, trained(6), kill) == -kill
    assert calm.wait(_START_S) == 0, calm.output()
    calm.assert_gone()

    code, output = llava_av(_dryrun(folder), tmp_path)
    assert code == 0, output
    assert "resumes from step" in (folder / "logs" / "training.log").read_text()
    ours, theirs = _summary(folder), _summary(calm_folder)
    assert ours["checkpoint"]["digest"] == theirs["checkpoint"]["digest"]
    assert ours["dataset_commit"] == theirs["dataset_commit"]
    assert ours["accuracy"] == theirs["accuracy"]
    assert set(ours["seconds"]) == set(STEPS)

    code, output = llava_av(_dryrun(folder), tmp_path)  # finds everything done
    assert code == 0, output
    for unchanged in ("dataset_commit", "checkpoint", "model_version", "accuracy"):
        assert _summary(folder)[unchanged] == ours[unchanged]
    assert "0 files uploaded" in (folder / "logs" / "pipeline.log").read_text()


def test_interrupted_training_saves_its_last_step_and_says_how_to_resume(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    own = [*TINY, "--set=training.steps=5000", "--set=training.checkpoint_interval=5000"]
    options = ["--output-dir", str(folder), "--engine", "torch", *own]
    code, output = llava_av(["open-run", "quick", "--dataset", "demo", *options], tmp_path)
    assert code == 0, output
    saved = 0
    for number, expected in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        for journal in folder.glob("state/work/*/metrics.jsonl"):
            journal.unlink()
        train = Command(
            ["train", "quick", "--dataset", "demo-2x1-seed0", *options], log=tmp_path / f"{number}.log"
        )
        train.wait_until(lambda: trained_steps(folder) > saved + 1, _START_S)  # noqa: B023
        train.process.send_signal(number)
        assert train.wait(60) == expected, train.output()
        train.assert_gone()
        assert "Traceback" not in train.output()
        assert (f"resumes from step {saved}" in train.output()) == (saved > 0)
        [step] = re.findall(r"was interrupted, step (\d+) is saved: run the same command", train.output())
        saved = int(step)
        # What torchrun signals together with a process must not end before it.
        assert "left out" not in (folder / "logs" / "training.log").read_text()
