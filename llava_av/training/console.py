"""Progress of training in console and log: loss, throughput and the remaining time."""

import logging
import os
import time
from collections.abc import Mapping

from llava_av.processes import PROGRESS_VARIABLE, report_progress

__all__ = ["ProgressReport", "coarse_duration", "report_phase"]

_LOG = logging.getLogger(__name__)
_INTERVAL_S = 60.0


def report_phase(name: str) -> None:
    """Report what training does before its next step, such as `loading the model`; rank zero calls it."""
    report_progress("train", 0, 0, name)
    if not os.environ.get(PROGRESS_VARIABLE):
        _LOG.info("%s", name)


class ProgressReport:
    """Progress of one job: events for the command that started it, or else a log line once a minute.

    Args:
        first: First step of this job.
        steps: Steps of the recipe.
    """

    def __init__(self, first: int, steps: int) -> None:
        self._first = first
        self._steps = steps
        self._stage = ""
        self._started = self._reported = time.monotonic()

    def enter_stage(self, name: str) -> None:
        """Name the stage of the next steps; empty for a training without stages."""
        self._stage = name

    def stepped(self, step: int, metrics: Mapping[str, float]) -> None:
        """Report a finished step.

        Args:
            step: Index of the step, from 0.
            metrics: Metrics as `Trainer.step` returns them.
        """
        now = time.monotonic()
        if step == self._first:
            # The first step takes longer than the others.
            self._started = now
        note = self._note(step, metrics, now)
        report_progress("train", step + 1, self._steps, note)
        is_due = now - self._reported >= _INTERVAL_S or step + 1 == self._steps
        if is_due and not os.environ.get(PROGRESS_VARIABLE):
            self._reported = now
            _LOG.info("step %d/%d: %s", step + 1, self._steps, note)

    def _note(self, step: int, metrics: Mapping[str, float], now: float) -> str:
        parts = [f"stage {self._stage}"] if self._stage else []
        parts += [f"loss {metrics['loss']:.3f}"] if "loss" in metrics else []
        parts.append(f"{metrics['tokens_per_s']:,.0f} tokens/s")
        if "mfu" in metrics:
            parts.append(f"MFU {100 * metrics['mfu']:.0f} %")
        done, left = step - self._first, self._steps - step - 1
        if done and left:
            step_s = (now - self._started) / done
            parts.append(f"{1 / step_s:.1f} it/s" if step_s < 1 else f"{step_s:.1f} s/it")
            parts.append(f"ETA {coarse_duration(step_s * left)}")
        return ", ".join(parts)


def coarse_duration(seconds: float) -> str:
    """Return a duration such as `8 s`, `4 min 10 s`, `3 h 12 min` or `2 d 5 h`."""
    whole = round(seconds)
    for size, name, small, small_name in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // small} {small_name}"
    return f"{whole} s"
