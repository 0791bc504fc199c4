"""Checks that losses, gradients and weights are finite; if not, all processes stop in the same step."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, distributed

from llava_av.errors import UserError, printable
from llava_av.plurals import listed
from llava_av.training.collective import sum_over_processes
from llava_av.training.engines import Fragment

if TYPE_CHECKING:
    from llava_av.runs import NotFiniteReport

__all__ = ["NonFiniteError", "NonFiniteSteps", "require_finite_state", "stop"]

_LOG = logging.getLogger(__name__)

_MAX_NAMED = 8


class NonFiniteError(UserError):
    """A step with a loss, gradient or weight that is not finite."""

    def __init__(self, text: str, *, report: NotFiniteReport) -> None:
        """Keep the report for the run.

        Args:
            text: Error message.
            report: Object that is left with the run.
        """
        super().__init__(text)
        self.report = report


class NonFiniteSteps:
    """Count of steps in a row whose loss or gradient was not finite; all processes call it together.

    Args:
        most: Number of such steps in a row at which training stops.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._in_a_row = 0
        self._report: NotFiniteReport | None = None

    def passed(self) -> None:
        """Record that a step was finite."""
        self._in_a_row = 0

    def skipped(
        self, step: int, what: str, ids: Sequence[str], culprits: Sequence[str], learning_rate: float
    ) -> None:
        """Record a step that was not applied; arguments as for `stop`.

        Raises:
            NonFiniteError: It is the last of `most` such steps in a row.
        """
        self._in_a_row += 1
        if self._in_a_row >= self._most:
            stop(step, what, ids, culprits, learning_rate)
        self._report = _report(step, what, ids, culprits, learning_rate)
        if distributed.get_rank() == 0:
            _LOG.warning("step %d was not applied: %s (%s)", step, what, _named(self._report))

    def take_report(self) -> NotFiniteReport | None:
        """Return the report of a step skipped since the last call."""
        report, self._report = self._report, None
        return report


def stop(step: int, what: str, ids: Sequence[str], culprits: Sequence[str], learning_rate: float) -> NoReturn:
    """Raise `NonFiniteError` with the samples of all processes; all processes call it together.

    Args:
        step: Optimizer step, from 0.
        what: Cause, such as `the loss is not finite`.
        ids: IDs of this process's samples.
        culprits: Those of them that are known to cause it; none if any may.
        learning_rate: Learning rate of this step.
    """
    report = _report(step, what, ids, culprits, learning_rate)
    raise NonFiniteError(
        f"training stopped at step {step}: {what} ({_named(report)}); lower "
        f"optimizer.learning_rate (here {learning_rate:g}) or correct these samples, and train again; "
        "checkpoints before this step are kept",
        report=report,
    )


def _report(
    step: int, what: str, ids: Sequence[str], culprits: Sequence[str], learning_rate: float
) -> NotFiniteReport:
    # Its schema is needed only by steps that are not finite.
    from llava_av.runs import NotFiniteReport

    every: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(every, (list(ids), list(culprits)))
    samples = [one for part, _ in every for one in part]
    named = [one for _, part in every for one in part] or samples
    return NotFiniteReport(
        step=step, cause=what, samples=tuple(samples), culprits=tuple(named), learning_rate=learning_rate
    )


def _named(report: NotFiniteReport) -> str:
    return f"samples {listed(tuple(map(printable, report.culprits)), _MAX_NAMED)}"


def require_finite_state(
    step: int, fragments: Iterable[Fragment], ids: Sequence[str], learning_rate: float
) -> None:
    """Require that trained weights and optimizer state are finite in every process, before they are saved.

    Raises:
        NonFiniteError: Those of any process are not finite.
    """
    bad = not all(_is_finite(tensor) for one in fragments for tensor in one.tensors.values())
    if sum_over_processes(torch.tensor([float(bad)])).item():
        stop(step, "the updated weights are not finite", ids, (), learning_rate)


def _is_finite(tensor: Tensor) -> bool:
    # Minimum and maximum are NaN if any element is; this takes a third of the time of `isfinite` over all.
    return bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())
