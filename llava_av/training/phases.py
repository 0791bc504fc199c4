"""Phases of training that all processes enter together, each with a time limit."""

import time

from llava_av.processes.heartbeat import Heartbeat

__all__ = ["Phases"]

_HOUR_S = 3600.0
# Copying a large dataset or base model, and uploading a large checkpoint, take long.
_START_S, _DATA_S, _CHECKPOINT_S, _END_S = 12 * _HOUR_S, 2 * _HOUR_S, 4 * _HOUR_S, 4 * _HOUR_S
_VALIDATION_S = 2 * _HOUR_S
_TIMES_THE_LONGEST_STEP = 10


class Phases:
    """Reports the phase of this process, and its limit, to the heartbeat."""

    def __init__(self, heart: Heartbeat) -> None:
        self._heart = heart
        self._longest_s = 0.0
        self._step_started: float | None = None
        self._enter("the start", _START_S)

    def start_stage(self, name: str) -> None:
        """Enter the phase in which a stage loads its model."""
        self._enter(f"the start of stage {name}", _START_S)

    def wait_for_batch(self, step: int) -> None:
        """Enter the phase in which the loader makes the batch of a step."""
        self._enter(f"the data of step {step}", _DATA_S)

    def take_step(self, step: int) -> None:
        """Enter the phase of a step; its limit grows with the longest step so far."""
        self._enter(f"step {step}", max(self._heart.limits.step_s, _TIMES_THE_LONGEST_STEP * self._longest_s))
        self._step_started = time.monotonic()

    def save_checkpoint(self, step: int) -> None:
        """Enter the phase in which the checkpoint after `step` steps is written."""
        self._enter(f"the checkpoint of step {step}", _CHECKPOINT_S)

    def measure_held_out_loss(self, step: int) -> None:
        """Enter the phase in which the held-out loss after `step` steps is measured."""
        self._enter(f"the held-out loss of step {step}", _VALIDATION_S)

    def finish(self) -> None:
        """Enter the phase after the last step."""
        self._enter("the end", _END_S)

    def _enter(self, name: str, limit_s: float) -> None:
        if self._step_started is not None:
            self._longest_s = max(self._longest_s, time.monotonic() - self._step_started)
            self._step_started = None
        self._heart.reached(name, limit_s)
