"""A checkable statement about an evaluation, such as "accuracy.av.joint is at least 0.90"."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from llava_av.frozen import FrozenModel
from llava_av.registry.baselines import Reference, cell

__all__ = ["FAMILIES", "Check", "Expectation", "Over", "misspelt"]

Bound = float | Literal["chance"]
Over = Literal["parent", "champion"]
Comparison = Literal[">=", "<=", ">", "<"]
_ABLATIONS = ("av", "video_only", "audio_only", "text_only", "shuffled_audio")
_INTERVAL = ("value", "low", "high")
_PARTS = {"accuracy": (*_INTERVAL, "n", "unparsed"), "loss": (), "differences": _INTERVAL}
FAMILIES = ("visual", "audio", "joint", "all")
"""Families of questions of the demonstration, of every task, and of data without kinds; data of one's own may
have others."""
_WORDS: dict[str, str] = {">=": "at least", "<=": "at most", ">": "above", "<": "below"}
_FIELDS: dict[str, Comparison] = {"at_least": ">=", "at_most": "<=", "above": ">", "below": "<"}


class Check(FrozenModel):
    """An expectation beside what was seen."""

    metric: str
    task: str | None = None
    """The benchmark; None for the held-out split."""
    over: Over | None = None
    """The model over which the metric is meant; then `seen` is the difference."""
    reference: str | None = None
    """What `over` was; None if there was none, or nothing was compared."""
    comparison: Comparison
    expected: float | None
    """The bound as a number; None if it is the chance of a question without choices."""
    by_chance: bool = False
    """Whether the bound was given as `chance`."""
    seen: float | None = None
    """None if the evaluation lacks the metric."""
    low: float | None = None
    """Lower end of the 95 % interval of `seen`, where it has one."""
    high: float | None = None
    lacks: str = ""
    """What this model's evaluation lacks, beside what it has, if the metric is not in it."""
    met: bool | None
    """None if it could not be checked."""

    @property
    def margin(self) -> float | None:
        """By how much it is met (positive) or missed (negative); None if it could not be checked."""
        if self.seen is None or self.expected is None or self.met is None:
            return None
        return self.seen - self.expected if self.comparison.startswith(">") else self.expected - self.seen

    @property
    def name(self) -> str:
        """What is measured, such as `accuracy.av.joint over champion`."""
        task = f"{self.task}: " if self.task else ""
        return f"{task}{self.metric}{f' over {self.over}' if self.over else ''}"

    @property
    def statement(self) -> str:
        """What was expected, such as `accuracy.av.joint at least 0.90`."""
        return f"{self.name} {_WORDS[self.comparison]} {self._bound(2)}"

    @property
    def outcome(self) -> str:
        """Expected and seen, such as `accuracy.av.joint at least 0.90: 0.97 [0.93, 0.99], met by 0.07`."""
        margin = self.margin
        if self.seen is None or self.expected is None or margin is None:
            return f"{self.statement}: not measured{f' ({self.lacks})' if self.lacks else ''}"
        digits = _digits_that_tell_apart(self.seen, self.expected)
        interval = "" if self.low is None or self.high is None else f" [{self.low:.2f}, {self.high:.2f}]"
        verdict = f"{'met' if self.met else 'missed'} by {_number(abs(margin), digits)}"
        return f"{self.statement}: {_number(self.seen, digits)}{interval}, {verdict}"

    @property
    def sentence(self) -> str:
        """What was seen and expected, such as `accuracy.av.joint is 0.71, expected at least 0.90`."""
        words = _WORDS[self.comparison]
        if self.seen is None:
            both = f" of this model and of its {self.over}" if self.over else ""
            which = f" ({self.reference})" if self.reference else ""
            where = f"the evaluation{both}{which}{f' on {self.task}' if self.task else ''}"
            lacks = f" ({self.lacks})" if self.lacks else ""
            return f"{self.name} is not in {where}{lacks}, expected {words} {self._bound(2)}"
        if self.expected is None:
            return f"{self.name} is {_number(self.seen, 2)}, expected {words} chance, which it has not"
        digits = _digits_that_tell_apart(self.seen, self.expected)
        interval = "" if self.low is None or self.high is None else f" [{self.low:.3f}, {self.high:.3f}]"
        compared = f" ({self.reference}){interval}" if self.over and self.reference else ""
        return (
            f"{self.name}{compared} is {_number(self.seen, digits)}, expected {words} {self._bound(digits)}"
        )

    def _bound(self, digits: int) -> str:
        if self.expected is None:
            return "chance"
        number = _number(self.expected, digits)
        return f"chance ({number})" if self.by_chance else number


class Expectation(FrozenModel):
    """A bound on one number of an evaluation, or on what it has over another model's."""

    model_config = ConfigDict(allow_inf_nan=False)

    metric: str
    """Dotted path into evaluation.json: `accuracy.<ablation>.<family>`, `loss.<ablation>.<family>` or
    `differences.<ablation>.<family>`; `.low`, `.high`, `.n` or `.unparsed` behind it names a part of the cell
    instead of its value."""
    task: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    """Task whose numbers are meant, as `llava-av evaluate --task` names it; the held-out split if None."""
    over: Over | None = None
    """Model to compare with: the bound is then on this model's number minus that one's."""
    at_least: Bound | None = None
    """Smallest value that is as expected; `chance` is the chance of the same cell."""
    at_most: Bound | None = None
    """Largest value that is as expected; `chance` is the chance of the same cell."""
    above: Bound | None = None
    """As `at_least`, but the bound itself is not enough."""
    below: Bound | None = None
    """As `at_most`, but the bound itself is too much."""

    @field_validator("metric")
    @classmethod
    def _is_metric(cls, metric: str) -> str:
        problem = _problem(metric)
        if problem:
            raise ValueError(f"no number of an evaluation: {problem}")
        return metric

    @field_validator("task")
    @classmethod
    def _is_benchmark(cls, task: str | None) -> str | None:
        if task == "held-out":
            raise ValueError("leave it out: without a task the held-out split is meant")
        return task

    @field_validator(*_FIELDS, mode="before")
    @classmethod
    def _is_bound(cls, bound: Any) -> Any:
        if bound is not None and bound != "chance" and not _is_number(bound):
            raise ValueError("give a number, or chance")
        return bound

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        given = [bound for bound in (getattr(self, field) for field in _FIELDS) if bound is not None]
        if len(given) != 1:
            raise ValueError("give either at_least or at_most (or above, or below)")
        if self.over is not None and not self._has_difference():
            raise ValueError(
                f"only an accuracy or a loss is compared with another model's, not {self.metric}"
            )
        if "chance" in given and self.over is not None:
            raise ValueError(f"a difference over {self.over} has no chance")
        if "chance" in given and not self.metric.startswith("accuracy."):
            raise ValueError(f"only an accuracy has a chance, {self.metric} has none")
        return self

    def _has_difference(self) -> bool:
        kind, _, _, *part = self.metric.split(".")
        return kind != "differences" and set(part) <= set(_INTERVAL)

    @property
    def comparison(self) -> Comparison:
        """How the number has to stand to the bound."""
        return next(sign for field, sign in _FIELDS.items() if getattr(self, field) is not None)

    @property
    def bound(self) -> Bound:
        """The bound as given."""
        found: Bound = next(
            bound for bound in (getattr(self, field) for field in _FIELDS) if bound is not None
        )
        return found

    def check(
        self, evaluation: Mapping[str, Any], references: Mapping[Over, Reference] | None = None
    ) -> Check:
        """Compares the number with the bound.

        Args:
            evaluation: evaluation.json, with those of other tasks by name under `tasks`.
            references: the models that `over` may name, as far as there are such.

        Returns:
            The check; not met if the number is no number (NaN), undecided (`met` None) if it is missing.
        """
        kind, ablation, family, *part = self.metric.split(".")
        judged = self._of_task(evaluation)
        other = (references or {}).get(self.over) if self.over else None
        numbers = cell(judged, kind, ablation, family)
        if self.over is not None:
            compared = other and (other.tasks.get(self.task) if self.task else other)
            numbers = compared.difference(judged, kind, ablation, family) if compared else None
        seen = _get(numbers, part[0] if part else "value") if isinstance(numbers, Mapping) else numbers
        by_chance = self.bound == "chance"
        expected = _get(numbers, "chance") if by_chance else float(self.bound)
        return Check(
            metric=self.metric,
            task=self.task,
            over=self.over,
            reference=other.label if other else None,
            comparison=self.comparison,
            expected=expected,
            by_chance=by_chance,
            seen=seen,
            low=None if part and not self.over else _get(numbers, "low"),
            high=None if part and not self.over else _get(numbers, "high"),
            lacks=self._lacks(evaluation),
            met=_holds(seen, self.comparison, expected),
        )

    def _lacks(self, evaluation: Mapping[str, Any]) -> str:
        """Where the way to the number ends, such as `no family audio, only joint`; empty if it is there."""
        kind, ablation, family, *_ = self.metric.split(".")
        steps = (("number", kind), ("ablation", ablation), ("family", family))
        node: Any = evaluation
        for what, name in ((("set", "tasks"), ("task", self.task)) if self.task else ()) + steps:
            if name not in (node or {}):
                return f"no {what} {name}" + (f", only {', '.join(node)}" if node and what != "set" else "")
            node = node[name]
        return ""

    def _of_task(self, evaluation: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.task is None:
            return evaluation
        return _get(_get(evaluation, "tasks"), self.task) or {}


def misspelt(name: str, known: Sequence[str]) -> str | None:
    """The known name that is meant by one that is nearly it; None for one that is known, or far from all."""
    return None if name in known else next(iter(get_close_matches(name, known, n=1, cutoff=0.7)), None)


def _problem(metric: str) -> str | None:
    """What is wrong with a metric's name; None if evaluations may have it."""
    kind, *names = metric.split(".")
    if len(names) not in (2, 3) or not all(names):
        return (
            "write accuracy.av.joint, accuracy.video_only.joint.low, loss.av.joint or "
            "differences.text_only.joint.low, or the like"
        )
    if kind not in _PARTS:
        return f"{kind!r} is none of {', '.join(_PARTS)}"
    ablation, family, *part = names
    ablations = _ABLATIONS[1:] if kind == "differences" else _ABLATIONS
    if ablation not in ablations:
        return f"the ablation {ablation!r} is none of {', '.join(ablations)}"
    meant = misspelt(family, FAMILIES)
    if meant:
        return f"the family {family!r} is none of {', '.join(FAMILIES)}; did you mean {meant}?"
    if not set(part) <= set(_PARTS[kind]):
        return f"{kind} has no part {part[0]!r}, only {', '.join(_PARTS[kind]) or 'its value'}"
    return None


def _holds(seen: float | None, comparison: Comparison, expected: float | None) -> bool | None:
    if seen is None or expected is None:
        return None
    holds = {">=": seen >= expected, "<=": seen <= expected, ">": seen > expected, "<": seen < expected}
    return bool(holds[comparison])


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
