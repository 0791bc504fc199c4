"""Loss spikes that a training records."""

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from llava_av.runs import LossSpike, LossSpikes
from llava_av.tracking.journal import Journal
from llava_av.training.loss_spikes import LEAST
from llava_av.training.recording import TrackedJournal


class Kept:
    """What a run gets."""

    def __init__(self) -> None:
        self.metrics = b""
        self.spikes: Sequence[LossSpike] = ()

    def put_metrics(self, content: bytes) -> None:
        self.metrics = content

    def write(self, value: LossSpikes) -> None:
        self.spikes = value.spikes


def test_a_spike_is_a_warning_with_its_samples_and_is_saved_with_the_journal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, journal = Kept(), Journal(tmp_path / "metrics.jsonl")
    for step in range(LEAST):
        journal.append({"step": step, "loss": 1.0})
    earlier = LossSpike(step=3, loss=9.0, median=1.0, samples=("z",))
    tracked = TrackedJournal(run, journal, [earlier], lambda step: [f"{step}-{n}" for n in range(10)])  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING, "llava_av"):
        tracked.record(LEAST, {"loss": 1.1})
        tracked.record(LEAST + 1, {"loss": 7.5})
        tracked.record(LEAST + 2, {"grad_norm": 1.0})
    [warning] = [record.getMessage() for record in caplog.records]
    assert f"step {LEAST + 1}: 7.5, running median 1 " in warning
    assert f"{LEAST + 1}-0" in warning
    assert f"{LEAST + 1}-7 and 2 more" in warning
    tracked.save()
    assert [spike.step for spike in run.spikes] == [3, LEAST + 1]
    assert (run.spikes[1].loss, run.spikes[1].median, len(run.spikes[1].samples)) == (7.5, 1.0, 10)
    assert run.metrics == journal.path.read_bytes()
    assert [row["step"] for row in journal.rows()] == list(range(LEAST + 3))
