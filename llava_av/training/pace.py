"""The points that all processes of a training pass together, and how long each may take."""

import time

from llava_av.processes.heartbeat import Heartbeat

__all__ = ["Pace"]

_HOUR_S = 3600.0
# Copies of a large dataset or base model, and uploads of a large checkpoint, take their time.
_START_S, _DATA_S, _CHECKPOINT_S, _END_S = 12 * _HOUR_S, 2 * _HOUR_S, 4 * _HOUR_S, 4 * _HOUR_S
_TIMES_THE_LONGEST = 10


class Pace:
    """Tells the heartbeat what this process is about to do."""

    def __init__(self, heart: Heartbeat) -> None:
        self._heart = heart
        self._longest_s = 0.0
        self._began: float | None = None
        self._pass("the start", _START_S)

    def loads(self, step: int) -> None:
        """Note that the batch of a step is waited for."""
        self._pass(f"the data of step {step}", _DATA_S)

    def steps(self, step: int) -> None:
        """Note that a step begins."""
        self._pass(f"step {step}", max(self._heart.limits.step_s, _TIMES_THE_LONGEST * self._longest_s))
        self._began = time.monotonic()

    def saves(self, step: int) -> None:
        """Note that a checkpoint is written."""
        self._pass(f"the checkpoint of step {step}", _CHECKPOINT_S)

    def ends(self) -> None:
        """Note that all steps are done."""
        self._pass("the end", _END_S)

    def _pass(self, at: str, limit_s: float) -> None:
        if self._began is not None:
            self._longest_s = max(self._longest_s, time.monotonic() - self._began)
            self._began = None
        self._heart.reached(at, limit_s)
