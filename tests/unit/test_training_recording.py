"""Loss spikes and bad samples that a training records."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from torch import distributed

from llava_av.datasets.unfit import Unfit
from llava_av.recipe import StageSpan
from llava_av.runs import BadSample, BadSamplesReport, LossSpike, LossSpikes, RunRequest
from llava_av.tracking.journal import Journal, parse_rows
from llava_av.tracking.prometheus import TrainingMetrics
from llava_av.training.bad_samples import BadSamples
from llava_av.training.console import ProgressReport
from llava_av.training.loss_spikes import LEAST
from llava_av.training.recording import TrackedJournal
from tests.artifacts import sample

COSTS = {
    "tokens_per_s": 1.0,
    "step_s": 1.0,
    "learning_rate": 1e-3,
    "data_wait_s": 0.0,
    "checkpoint_stall_s": 0.0,
    "memory_mib": 1.0,
    "samples_per_s_per_gpu": 1.0,
    "padding_share": 0.0,
}


@pytest.fixture(autouse=True)
def _group() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


class Kept:
    """Run that keeps the objects that it gets."""

    def __init__(self) -> None:
        self.metrics = b""
        self.spikes: Sequence[LossSpike] = ()
        self.bad: Sequence[BadSample] = ()

    def put_metrics(self, content: bytes) -> None:
        self.metrics = content

    def write(self, value: LossSpikes | BadSamplesReport) -> None:
        if isinstance(value, LossSpikes):
            self.spikes = value.spikes
        else:
            self.bad = value.samples


def test_a_spike_is_a_warning_with_its_samples_and_is_saved_with_the_journal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def samples_of(step: int) -> list[str]:
        return [f"{step}-{n}" for n in range(10)]

    exported = TrainingMetrics(sample(RunRequest))
    run, journal = Kept(), Journal(tmp_path / "metrics.jsonl")
    for step in range(LEAST):
        journal.append({"step": step, "loss": 1.0})
    earlier = LossSpike(step=3, loss=9.0, median=1.0, samples=("z",))
    bad, progress = BadSamples(99, 0.5), ProgressReport(0, 99)
    tracked = TrackedJournal(run, journal, [earlier], bad, progress, exported)  # type: ignore[arg-type]
    tracked.enter_stage(StageSpan(index=0, name="", first=0, steps=99), samples_of, 0)
    with caplog.at_level(logging.WARNING, "llava_av"):
        tracked.record(LEAST, {"loss": 1.1, **COSTS})
        tracked.record(LEAST + 1, {"loss": 7.5, **COSTS})
        tracked.record(LEAST + 2, {**COSTS})
    [warning] = [record.getMessage() for record in caplog.records]
    assert f"step {LEAST + 1}: 7.5, running median 1 " in warning
    assert f"{LEAST + 1}-0" in warning
    assert f"{LEAST + 1}-7 and 2 more" in warning
    bad.add([Unfit(id="first", reason="it is cut short")], LEAST)
    write = tracked.snapshot()
    tracked.record(LEAST + 3, {"loss": 9.0, **COSTS})
    bad.add([Unfit(id="later", reason="it is cut short")], LEAST + 3)
    write()
    assert [spike.step for spike in run.spikes] == [3, LEAST + 1]
    assert run.bad == (BadSample(id="first", reason="it is cut short", step=LEAST),)
    assert (run.spikes[1].loss, run.spikes[1].median, len(run.spikes[1].samples)) == (7.5, 1.0, 10)
    assert [row["step"] for row in parse_rows(run.metrics.decode())] == list(range(LEAST + 3))
    assert [row["step"] for row in journal.rows()] == list(range(LEAST + 4))


def test_losses_of_a_stage_are_not_compared_with_those_of_the_one_before(tmp_path: Path) -> None:
    exported, run = TrainingMetrics(sample(RunRequest)), Kept()
    journal, bad, progress = Journal(tmp_path / "metrics.jsonl"), BadSamples(99, 0.5), ProgressReport(0, 99)
    tracked = TrackedJournal(run, journal, [], bad, progress, exported)  # type: ignore[arg-type]
    tracked.enter_stage(StageSpan(index=0, name="align", first=0, steps=LEAST), lambda _: ["a"], 0)
    for step in range(LEAST):
        tracked.record(step, {"loss": 1.0, **COSTS})
    second = StageSpan(index=1, name="joint", first=LEAST, steps=LEAST)
    tracked.enter_stage(second, lambda _: ["b"], LEAST)
    tracked.record(LEAST, {"loss": 7.5, **COSTS})
    tracked.snapshot()()
    assert run.spikes == ()
    assert [row["step"] for row in tracked.rows(second)] == [LEAST]


@pytest.mark.parametrize("resumed", [False, True])
def test_losses_of_all_kinds_are_not_compared_with_those_of_the_warmup(tmp_path: Path, resumed: bool) -> None:
    exported, run = TrainingMetrics(sample(RunRequest)), Kept()
    journal, bad, progress = Journal(tmp_path / "metrics.jsonl"), BadSamples(99, 0.5), ProgressReport(0, 99)
    span = StageSpan(index=0, name="", first=0, steps=99)

    def enter() -> TrackedJournal:
        tracked = TrackedJournal(run, journal, [], bad, progress, exported)  # type: ignore[arg-type]
        tracked.enter_stage(span, lambda _: ["a"], LEAST)
        return tracked

    tracked = enter()
    for step in range(LEAST):
        tracked.record(step, {"loss": 1.0, **COSTS})
    for step in range(LEAST, 2 * LEAST):
        if resumed and step == LEAST + 2:
            tracked = enter()
        tracked.record(step, {"loss": 7.5, **COSTS})
    tracked.record(2 * LEAST, {"loss": 30.0, **COSTS})
    tracked.snapshot()()
    assert [spike.step for spike in run.spikes] == [2 * LEAST]
