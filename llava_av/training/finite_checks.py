"""Checks that losses, gradients and weights are finite; if not, all processes stop in the same step."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, distributed

from llava_av.errors import UserError
from llava_av.runs import NotFiniteReport
from llava_av.training.collective import sum_over_processes
from llava_av.training.engines import Fragment

__all__ = ["NonFiniteError", "require_finite_gradients", "require_finite_state", "stop"]

_NAMED = 8


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


def stop(step: int, what: str, ids: Sequence[str], culprits: Sequence[str], learning_rate: float) -> NoReturn:
    """Raise `NonFiniteError` with the samples of all processes; all processes call it together.

    Args:
        step: Optimizer step, from 0.
        what: Cause, such as `the loss is not finite`.
        ids: IDs of this process's samples.
        culprits: Those of them that are known to cause it; none if any may.
        learning_rate: Learning rate of this step.
    """
    every: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(every, (list(ids), list(culprits)))
    samples = [one for part, _ in every for one in part]
    named = [one for _, part in every for one in part] or samples
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    raise NonFiniteError(
        f"training stopped at step {step}: {what} (samples {', '.join(named[:_NAMED])}{more}); lower "
        f"optimizer.learning_rate (here {learning_rate:g}) or correct these samples, and train again; "
        "checkpoints before this step are kept",
        report=NotFiniteReport(
            step=step,
            cause=what,
            samples=tuple(samples),
            culprits=tuple(named),
            learning_rate=learning_rate,
        ),
    )


def require_finite_gradients(step: int, norm: float, ids: Sequence[str], learning_rate: float) -> None:
    """Require a finite gradient norm in every process, before the step is applied.

    Raises:
        NonFiniteError: The norm is infinite or NaN.
    """
    if sum_over_processes(torch.tensor([float(not math.isfinite(norm))])).item():
        stop(step, "the gradient norm is not finite", ids, (), learning_rate)


def require_finite_state(
    step: int, fragments: Iterable[Fragment], ids: Sequence[str], learning_rate: float
) -> None:
    """Require finite trained weights and optimizer state in every process, before they are saved.

    Raises:
        NonFiniteError: Those of any process are not finite.
    """
    bad = not all(_is_finite(tensor) for one in fragments for tensor in one.tensors.values())
    if sum_over_processes(torch.tensor([float(bad)])).item():
        stop(step, "the updated weights are not finite", ids, (), learning_rate)


def _is_finite(tensor: Tensor) -> bool:
    # Both are NaN if any element is; this takes a third of the time of `isfinite` for each element.
    return bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())
