"""The model that another is compared with, and the difference of two accuracies with its interval."""

import math
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from llava_av.frozen import FrozenModel

__all__ = ["Reference", "unpaired_difference"]


class Reference(FrozenModel):
    """The parent's or champion's evaluation, on what was held out or on one other task."""

    label: str
    """What it is, such as `version 3` or `run 0123456789abcdef`."""
    evaluation: dict[str, Any]
    """Its evaluation.json; empty if it has not been evaluated."""
    paired: dict[str, dict[str, dict[str, float]]] = Field(default_factory=dict)
    """By ablation and family: value, low and high of the difference on the same questions. Empty if the two
    answered different ones; then the interval of each is all that is known."""
    tasks: dict[str, "Reference"] = Field(default_factory=dict)
    """The same model on other tasks, by name; those on which both models were asked the same."""

    def difference(self, evaluation: Mapping[str, Any], kind: str, ablation: str, family: str) -> Any:
        """What `evaluation` has over this one: `{value, low, high}`, of a loss the value; None if unknown.

        Args:
            evaluation: evaluation.json of the model that is judged.
            kind: `accuracy` or `loss`.
            ablation: such as `av`.
            family: such as `joint`.
        """
        own, other = (cell(one, kind, ablation, family) for one in (evaluation, self.evaluation))
        if own is None or other is None:
            return None
        if kind == "loss":
            return {"value": own - other}
        return self.paired.get(ablation, {}).get(family) or unpaired_difference(own, other)


def cell(evaluation: Mapping[str, Any], kind: str, ablation: str, family: str) -> Any:
    """The numbers of a kind, ablation and family; None if the evaluation lacks them."""
    node: Any = evaluation
    for key in (kind, ablation, family):
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def unpaired_difference(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    """Difference of two shares of different questions, with its 95 % interval, from the interval of each.

    Source: R. G. Newcombe, "Interval estimation for the difference between independent proportions:
    comparison of eleven methods", Statistics in Medicine 17 (1998), 873-890, method 10: the Wilson intervals
    of both are joined.

    Args:
        first: `value`, `low` and `high` of one share, by Wilson.
        second: of the share that is taken from it.
    """
    value = first["value"] - second["value"]
    below = math.hypot(first["value"] - first["low"], second["high"] - second["value"])
    above = math.hypot(first["high"] - first["value"], second["value"] - second["low"])
    return {"value": value, "low": value - below, "high": value + above}
