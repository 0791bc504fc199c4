"""A checkable statement about an evaluation, such as "accuracy.av.joint is at least 0.90"."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from llava_av.documents import close_name
from llava_av.frozen import FrozenModel
from llava_av.registry.baselines import Baseline
from llava_av.runs import Check, EvaluationResult, Interval, Operator, Over
from llava_av.vocabulary import HELD_OUT_TASK, Ablation, QuestionFamily

__all__ = ["ANY_FAMILY", "Expectation", "check_all", "misspelt"]

ANY_FAMILY = "*"
"""Family of a metric that stands for each family of the evaluation."""

Bound = float | Literal["chance"]
_INTERVAL = ("value", "low", "high")
_PARTS = {"accuracy": (*_INTERVAL, "n", "unparsed"), "loss": (), "differences": _INTERVAL}
_FIELDS: dict[str, Operator] = {"at_least": ">=", "at_most": "<=", "above": ">", "below": "<"}


class Expectation(FrozenModel):
    """A bound on one number of an evaluation, or on its difference to a baseline's."""

    model_config = ConfigDict(allow_inf_nan=False)

    metric: str
    """Dotted path into evaluation.json: `accuracy.<ablation>.<family>`, `loss.<ablation>.<family>` or
    `differences.<ablation>.<family>`; a suffix `.low`, `.high`, `.n` or `.unparsed` names a part of the cell
    instead of its value. The family `*` stands for each family of the evaluation."""
    task: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    """Task of the number, as `llava-av evaluate --task` names it; the held-out split if None."""
    over: Over | None = None
    """Baseline: the bound is then on this model's number minus the baseline's."""
    at_least: Bound | None = None
    """Smallest expected value; `chance` is the chance level of the same cell."""
    at_most: Bound | None = None
    """Largest expected value; `chance` is the chance level of the same cell."""
    above: Bound | None = None
    """As `at_least`, without the bound itself."""
    below: Bound | None = None
    """As `at_most`, without the bound itself."""

    @field_validator("metric")
    @classmethod
    def _is_metric(cls, metric: str) -> str:
        problem = _problem(metric)
        if problem:
            raise ValueError(f"not a number of an evaluation: {problem}")
        return metric

    @field_validator("task")
    @classmethod
    def _is_benchmark(cls, task: str | None) -> str | None:
        if task == HELD_OUT_TASK:
            raise ValueError("omit it: without a task, the number is of the held-out split")
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
            raise ValueError(f"only an accuracy or a loss is compared with a baseline, not {self.metric}")
        if "chance" in given and self.over is not None:
            raise ValueError(f"a difference to the {self.over} has no chance level")
        if "chance" in given and not self.metric.startswith("accuracy."):
            raise ValueError(f"only an accuracy has a chance level, {self.metric} has none")
        return self

    def _has_difference(self) -> bool:
        kind, _, _, *part = self.metric.split(".")
        return kind != "differences" and set(part) <= set(_INTERVAL)

    @property
    def comparison(self) -> Operator:
        """Return the operator between number and bound."""
        return next(sign for field, sign in _FIELDS.items() if getattr(self, field) is not None)

    @property
    def bound(self) -> Bound:
        """Return the bound as given."""
        found: Bound = next(
            bound for bound in (getattr(self, field) for field in _FIELDS) if bound is not None
        )
        return found

    def of_each_family(self, evaluation: EvaluationResult) -> "tuple[Expectation, ...]":
        """Return this expectation, or one for each family of the evaluation if its family is `*`."""
        judged = evaluation.tasks.get(self.task) if self.task else evaluation
        table, ablation, family, *part = self.metric.split(".")
        if family != ANY_FAMILY or judged is None:
            return (self,)
        names = (".".join([table, ablation, name, *part]) for name in judged.accuracy[Ablation.AUDIO_VISUAL])
        return tuple(self.model_copy(update={"metric": name}) for name in names)

    def check(self, evaluation: EvaluationResult, baselines: Mapping[Over, Baseline] | None = None) -> Check:
        """Compare the number with the bound.

        Args:
            evaluation: The evaluation, with its `tasks`.
            baselines: The models that `over` may name, as far as they exist.

        Returns:
            The check; not met if the number is NaN, undecided (`met` is None) if it is missing.
        """
        baseline = (baselines or {}).get(self.over) if self.over else None
        number, *part = self._number(evaluation, baseline), *self.metric.split(".")[3:]
        seen = _part(number, part[0] if part else "value")
        by_chance = self.bound == "chance"
        expected = _part(number, "chance") if by_chance else float(self.bound)
        return Check(
            metric=self.metric,
            task=self.task,
            over=self.over,
            reference=baseline.label if baseline else None,
            comparison=self.comparison,
            expected=expected,
            by_chance=by_chance,
            seen=seen,
            low=None if part and not self.over else _part(number, "low"),
            high=None if part and not self.over else _part(number, "high"),
            lacks=self._lacks(evaluation),
            met=_holds(seen, self.comparison, expected),
        )

    def _number(self, evaluation: EvaluationResult, baseline: Baseline | None) -> Interval | float | None:
        """Return the number, or its difference to the baseline's; None if one of them is missing."""
        table, ablation, family, *_ = self.metric.split(".")
        judged = evaluation.tasks.get(self.task) if self.task else evaluation
        if judged is None:
            return None
        if self.over is None:
            return judged.number(table, ablation, family)
        other = baseline.tasks.get(self.task) if baseline and self.task else baseline
        return other.difference(judged, table, ablation, family) if other else None

    def _lacks(self, evaluation: EvaluationResult) -> str:
        """Return the missing part of the metric's path: `no family audio, only joint`; empty if it exists."""
        if self.task and self.task not in evaluation.tasks:
            return _missing("task", self.task, evaluation.tasks)
        judged = evaluation.tasks[self.task] if self.task else evaluation
        table, ablation, family, *_ = self.metric.split(".")
        tables = [name for name in _PARTS if name == "accuracy" or judged.table(name)]
        if table not in tables:
            return _missing("number", table, tables)
        rows = judged.table(table)
        if ablation not in rows:
            return _missing("ablation", ablation, rows)
        return "" if family in rows[ablation] else _missing("family", family, rows[ablation])


def check_all(
    expectations: Iterable[Expectation],
    evaluation: EvaluationResult,
    baselines: Mapping[Over, Baseline] | None = None,
) -> tuple[Check, ...]:
    """Compare the number of each expectation, or of each family if its family is `*`, with its bound."""
    each = (one for expectation in expectations for one in expectation.of_each_family(evaluation))
    return tuple(one.check(evaluation, baselines) for one in each)


def _missing(what: str, name: str, known: Iterable[str]) -> str:
    only = ", ".join(known)
    return f"no {what} {name}" + (f", only {only}" if only else "")


def _part(number: Interval | float | None, part: str) -> float | None:
    """Return a part of a number; a plain number has only a value."""
    if isinstance(number, Interval):
        found: float | None = getattr(number, part, None)
        return found
    return number if part == "value" else None


def misspelt(name: str, known: Sequence[str]) -> str | None:
    """Return the known name that a name resembles; None for a known name, and for one that resembles none."""
    return None if name in known else close_name(name, known)


def _problem(metric: str) -> str | None:
    """Return the problem with a metric's name; None if evaluations may have it."""
    kind, *names = metric.split(".")
    if len(names) not in (2, 3) or not all(names):
        return (
            "write accuracy.av.joint, accuracy.video_only.joint.low, loss.av.joint or "
            "differences.text_only.joint.low, or the like"
        )
    if kind not in _PARTS:
        return f"{kind!r} is not one of {', '.join(_PARTS)}"
    ablation, family, *part = names
    ablations = [name for name in Ablation if kind != "differences" or name != Ablation.AUDIO_VISUAL]
    if ablation not in ablations:
        return f"the ablation {ablation!r} is not one of {', '.join(ablations)}"
    meant = misspelt(family, tuple(QuestionFamily))
    if meant:
        return f"the family {family!r} is not one of {', '.join(QuestionFamily)}; did you mean {meant}?"
    if not set(part) <= set(_PARTS[kind]):
        return f"{kind} has no part {part[0]!r}, only {', '.join(_PARTS[kind]) or 'its value'}"
    return None


def _holds(seen: float | None, comparison: Operator, expected: float | None) -> bool | None:
    if seen is None or expected is None:
        return None
    holds = {">=": seen >= expected, "<=": seen <= expected, ">": seen > expected, "<": seen < expected}
    return bool(holds[comparison])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
