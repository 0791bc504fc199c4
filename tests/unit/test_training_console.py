"""Progress of training: events for a command, log lines for a log."""

import logging
import threading
import time
from pathlib import Path

import pytest

from llava_av.processes import PROGRESS_VARIABLE, follow_progress
from llava_av.training.console import ProgressReport, coarse_duration

METRICS = {"loss": 1.25, "tokens_per_s": 12_300.0}


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def test_a_command_gets_loss_throughput_and_the_time_left(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(PROGRESS_VARIABLE, str(tmp_path / "progress"))
    report = ProgressReport(10, 20)
    for step in (10, 11, 12):
        clock.now += 100.0 if step == 10 else 2.0
        report.stepped(step, METRICS | ({"mfu": 0.414} if step == 12 else {}))
    stop = threading.Event()
    stop.set()
    events = list(follow_progress(tmp_path / "progress", stop))
    assert [(event.step, event.done, event.total) for event in events] == [
        ("train", done, 20) for done in (11, 12, 13)
    ]
    assert events[0].note == "loss 1.250, 12,300 tokens/s"
    # 2 s for each step but the first
    assert events[2].note == "loss 1.250, 12,300 tokens/s, MFU 41 %, 2.0 s/it, ETA 14 s"


def test_a_log_gets_a_line_a_minute_and_one_at_the_end(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv(PROGRESS_VARIABLE, raising=False)
    report = ProgressReport(0, 100)
    with caplog.at_level(logging.INFO, "llava_av"):
        for step in range(100):
            clock.now += 1.0
            report.stepped(step, METRICS)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["step 60/100", "step 100/100"]
    assert "ETA 40 s" in caplog.records[0].getMessage()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (250, "4 min 10 s"), (11_520, "3 h 12 min"), (190_800, "2 d 5 h")],
)
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    assert coarse_duration(seconds) == text
