"""A checkable statement about an evaluation, such as "accuracy.av.joint is at least 0.90"."""

import re
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

__all__ = ["Check", "Expectation"]

Bound = float | Literal["chance"]
_METRIC = re.compile(
    r"accuracy\.(av|video_only|audio_only|text_only)\.[a-z]+(\.(value|low|high|n|unparsed))?"
    r"|loss\.(av|video_only|audio_only|text_only)\.[a-z]+"
    r"|differences\.(video_only|audio_only|text_only)\.joint(\.(value|low|high))?"
)
_WORDS = {">=": "at least", "<=": "at most"}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Check(_Frozen):
    """An expectation beside what was seen."""

    metric: str
    comparison: Literal[">=", "<="]
    expected: float | None
    """The bound as a number; None if it is the chance of a question without choices."""
    by_chance: bool = False
    """Whether the bound was given as `chance`."""
    seen: float | None = None
    """None if the evaluation lacks the metric."""
    low: float | None = None
    """Lower end of the 95 % interval of `seen`, where it has one."""
    high: float | None = None
    met: bool | None
    """None if it could not be checked."""

    @property
    def statement(self) -> str:
        """What was expected, such as `accuracy.av.joint at least 0.90`."""
        return f"{self.metric} {_WORDS[self.comparison]} {self._bound(2)}"

    @property
    def outcome(self) -> str:
        """Expected and seen, such as `accuracy.av.joint at least 0.90: 0.97 [0.93, 0.99], met`."""
        if self.seen is None or self.met is None:
            return f"{self.statement}: not measured"
        digits = 2 if self.expected is None else _digits_that_tell_apart(self.seen, self.expected)
        interval = "" if self.low is None or self.high is None else f" [{self.low:.2f}, {self.high:.2f}]"
        verdict = "met" if self.met else "missed"
        return f"{self.statement}: {_number(self.seen, digits)}{interval}, {verdict}"

    @property
    def sentence(self) -> str:
        """What was seen and expected, such as `accuracy.av.joint is 0.71, expected at least 0.90`."""
        words = _WORDS[self.comparison]
        if self.seen is None:
            return f"{self.metric} is not in the evaluation, expected {words} {self._bound(2)}"
        if self.expected is None:
            return f"{self.metric} is {_number(self.seen, 2)}, expected {words} chance, which it has not"
        digits = _digits_that_tell_apart(self.seen, self.expected)
        return f"{self.metric} is {_number(self.seen, digits)}, expected {words} {self._bound(digits)}"

    def _bound(self, digits: int) -> str:
        if self.expected is None:
            return "chance"
        number = _number(self.expected, digits)
        return f"chance ({number})" if self.by_chance else number


class Expectation(_Frozen):
    """A bound on one number of an evaluation."""

    model_config = ConfigDict(allow_inf_nan=False)

    metric: str
    """Dotted path into evaluation.json: `accuracy.<ablation>.<family>`, `loss.<ablation>.<family>` or
    `differences.<ablation>.joint`; `.low`, `.high`, `.n` or `.unparsed` behind it names a part of the cell
    instead of its value."""
    at_least: Bound | None = None
    """Smallest value that is as expected; `chance` is the chance of the same cell."""
    at_most: Bound | None = None
    """Largest value that is as expected; `chance` is the chance of the same cell."""

    @field_validator("metric")
    @classmethod
    def _is_metric(cls, metric: str) -> str:
        if not _METRIC.fullmatch(metric):
            raise ValueError(
                "no number of an evaluation; write accuracy.av.joint, accuracy.video_only.joint.low, "
                "loss.av.joint or differences.text_only.joint.low, or the like"
            )
        return metric

    @field_validator("at_least", "at_most", mode="before")
    @classmethod
    def _is_bound(cls, bound: Any) -> Any:
        if bound is not None and bound != "chance" and not _is_number(bound):
            raise ValueError("give a number, or chance")
        return bound

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("give either at_least or at_most")
        if "chance" in (self.at_least, self.at_most) and not self.metric.startswith("accuracy."):
            raise ValueError(f"only an accuracy has a chance, {self.metric} has none")
        return self

    def check(self, evaluation: Mapping[str, Any]) -> Check:
        """Compares the number with the bound.

        Args:
            evaluation: evaluation.json.

        Returns:
            The check; not met if the number is no number (NaN), undecided (`met` None) if it is missing.
        """
        kind, ablation, family, *part = self.metric.split(".")
        cell = _get(_get(_get(evaluation, kind), ablation), family)
        seen = _get(cell, part[0] if part else "value") if isinstance(cell, Mapping) else cell
        bound = self.at_most if self.at_least is None else self.at_least
        by_chance = bound == "chance"
        expected = _get(cell, "chance") if by_chance else bound
        met = None
        if seen is not None and expected is not None:
            met = bool(seen <= expected if self.at_least is None else seen >= expected)
        return Check(
            metric=self.metric,
            comparison="<=" if self.at_least is None else ">=",
            expected=expected,
            by_chance=by_chance,
            seen=seen,
            low=None if part else _get(cell, "low"),
            high=None if part else _get(cell, "high"),
            met=met,
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _get(node: Any, key: str) -> Any:
    return node.get(key) if isinstance(node, Mapping) else None


def _number(value: float, digits: int) -> str:
    return f"{value:.0f}" if value.is_integer() and abs(value) >= 2 else f"{value:.{digits}f}"


def _digits_that_tell_apart(first: float, second: float) -> int:
    """So many digits that 0.896 never reads as the 0.90 that it falls short of."""
    if first == second:
        return 2
    return next((n for n in range(2, 9) if _number(first, n) != _number(second, n)), 9)
