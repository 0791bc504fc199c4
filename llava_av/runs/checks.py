"""Expectations and gate rules with the observed values."""

from typing import Literal

from llava_av.runs.artifact_base import ArtifactPart

__all__ = ["WORDS", "Check", "Operator", "Over"]

Over = Literal["parent", "champion"]
"""A baseline."""
Operator = Literal[">=", "<=", ">", "<"]
WORDS: dict[str, str] = {">=": "at least", "<=": "at most", ">": "above", "<": "below"}


class Check(ArtifactPart):
    """Expectation with the observed value."""

    metric: str
    task: str | None = None
    """Name of the benchmark; None for the held-out split."""
    over: Over | None = None
    """Baseline of the expectation; if set, `seen` is the difference to it."""
    reference: str | None = None
    """Model that served as the baseline `over`; None if there was none or nothing was compared."""
    comparison: Operator
    expected: float | None
    """Bound as a number; None for the chance level of a question without choices."""
    by_chance: bool = False
    """True if the bound was given as `chance`."""
    seen: float | None = None
    """Observed value; None if the evaluation lacks the metric."""
    low: float | None = None
    """Lower end of the 95 % interval of `seen`, if it has one."""
    high: float | None = None
    lacks: str = ""
    """Part of the metric's path that the evaluation lacks, with the existing names; empty if none."""
    met: bool | None
    """None if it could not be checked."""

    @property
    def margin(self) -> float | None:
        """Return by how much it is met (positive) or missed (negative); None if it could not be checked."""
        if self.seen is None or self.expected is None or self.met is None:
            return None
        return self.seen - self.expected if self.comparison.startswith(">") else self.expected - self.seen

    @property
    def name(self) -> str:
        """Return the measured quantity, such as `accuracy.av.joint over champion`."""
        task = f"{self.task}: " if self.task else ""
        return f"{task}{self.metric}{f' over {self.over}' if self.over else ''}"

    @property
    def statement(self) -> str:
        """Return the expectation, such as `accuracy.av.joint at least 0.90`."""
        return f"{self.name} {WORDS[self.comparison]} {self._bound(2)}"

    @property
    def outcome(self) -> str:
        """Return expected and observed: `accuracy.av.joint at least 0.90: 0.97 [0.93, 0.99], met by 0.07`."""
        margin = self.margin
        if self.seen is None or self.expected is None or margin is None:
            return f"{self.statement}: not measured{f' ({self.lacks})' if self.lacks else ''}"
        digits = _distinguishing_digits(self.seen, self.expected)
        interval = "" if self.low is None or self.high is None else f" [{self.low:.2f}, {self.high:.2f}]"
        verdict = f"{'met' if self.met else 'missed'} by {_number(abs(margin), digits)}"
        return f"{self.statement}: {_number(self.seen, digits)}{interval}, {verdict}"

    @property
    def sentence(self) -> str:
        """Return observed and expected, such as `accuracy.av.joint is 0.71, expected at least 0.90`."""
        words = WORDS[self.comparison]
        if self.seen is None:
            both = f" of this model and of its {self.over}" if self.over else ""
            which = f" ({self.reference})" if self.reference else ""
            where = f"the evaluation{both}{which}{f' on {self.task}' if self.task else ''}"
            lacks = f" ({self.lacks})" if self.lacks else ""
            return f"{self.name} is not in {where}{lacks}, expected {words} {self._bound(2)}"
        if self.expected is None:
            return (
                f"{self.name} is {_number(self.seen, 2)}, expected {words} chance, but it has no chance level"
            )
        digits = _distinguishing_digits(self.seen, self.expected)
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


def _number(value: float, digits: int) -> str:
    return f"{value:.0f}" if value.is_integer() and abs(value) >= 2 else f"{value:.{digits}f}"


def _distinguishing_digits(first: float, second: float) -> int:
    """Return the number of digits with which 0.896 does not read as the 0.90 that it misses."""
    if first == second:
        return 2
    return next((n for n in range(2, 9) if _number(first, n) != _number(second, n)), 9)
