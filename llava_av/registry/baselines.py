"""Baseline of a comparison, and the difference of two accuracies with its interval."""

import math
from collections.abc import Mapping

from pydantic import Field

from llava_av.frozen import FrozenModel
from llava_av.runs import EvaluationResult, Interval

__all__ = ["Baseline", "unpaired_difference"]


class Baseline(FrozenModel):
    """Evaluation of the parent or champion, on the held-out split or on one other task."""

    label: str
    """Name of the model, such as `version 3` or `run 0123456789abcdef`."""
    evaluation: EvaluationResult | None
    """None if it has not been evaluated."""
    paired: Mapping[str, Mapping[str, Interval]] = Field(default_factory=dict)
    """By ablation and family: the difference on the same questions. Empty if the models answered different
    questions; then only the interval of each is known."""
    tasks: Mapping[str, "Baseline"] = Field(default_factory=dict)
    """Same model on other tasks, by name, if both models were asked the same questions there."""

    def difference(
        self, evaluation: EvaluationResult, table: str, ablation: str, family: str
    ) -> Interval | float | None:
        """Return a number of an evaluation minus the baseline's, an interval for accuracies; None if unknown.

        Args:
            evaluation: The evaluation that is judged.
            table: `accuracy` or `loss`.
            ablation: Such as `av`.
            family: Such as `joint`.
        """
        own = evaluation.number(table, ablation, family)
        other = self.evaluation.number(table, ablation, family) if self.evaluation is not None else None
        if isinstance(own, Interval) and isinstance(other, Interval):
            return self.paired.get(ablation, {}).get(family) or unpaired_difference(own, other)
        if isinstance(own, float) and isinstance(other, float):
            return own - other
        return None


def unpaired_difference(first: Interval, second: Interval) -> Interval:
    """Return the difference of two shares of different questions with its 95 % interval.

    Source: R. G. Newcombe, "Interval estimation for the difference between independent proportions:
    comparison of eleven methods", Statistics in Medicine 17 (1998), 873-890, method 10: the Wilson intervals
    of both are combined.

    Args:
        first: One share with its Wilson interval.
        second: The share that is subtracted.
    """
    value = first.value - second.value
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    return Interval(value=value, low=value - below, high=value + above)
