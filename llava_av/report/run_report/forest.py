"""Differences between ablations or models, with their intervals on a shared axis."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llava_av.report.labels import ordered_ablations, ordered_families
from llava_av.runs import Interval, ModelComparison, Scores

__all__ = ["ForestRow", "comparison_rows", "difference_rows"]


@dataclass(frozen=True, kw_only=True)
class ForestRow:
    """A difference with its positions on the shared axis, in percent of its width."""

    ablation: str
    family: str
    difference: Interval
    left: float = 0.0
    width: float = 0.0
    point: float = 0.0
    zero: float = 0.0
    first: float | None = None
    """Accuracy of the baseline; None if only the difference is known."""
    second: float | None = None
    paired: bool = True
    """True if both models answered the same questions."""

    @property
    def verdict(self) -> str:
        """Return `better`, `worse` or `open` for an interval above 0, below 0 or around 0."""
        if self.difference.low > 0:
            return "better"
        return "worse" if self.difference.high < 0 else "open"


def difference_rows(scores: Scores) -> tuple[ForestRow, ...]:
    """Return the loss of accuracy for each removed or exchanged modality."""
    given = scores.differences
    rows = [
        ForestRow(ablation=name, family=family, difference=given[name][family])
        for name in ordered_ablations(given)
        for family in ordered_families(given[name])
    ]
    return _on_one_axis(rows)


def comparison_rows(comparison: ModelComparison) -> tuple[ForestRow, ...]:
    """Return the differences from a baseline, by ablation and family."""
    rows = [
        ForestRow(
            ablation=row.ablation,
            family=row.family,
            difference=Interval(value=row.value, low=row.low, high=row.high),
            first=row.first,
            second=row.second,
            paired=row.paired,
        )
        for row in comparison.rows
    ]
    return _on_one_axis(rows)


def _on_one_axis(rows: Sequence[ForestRow]) -> tuple[ForestRow, ...]:
    """Place the rows on an axis that contains zero and every interval."""
    low = min([0.0, *(row.difference.low for row in rows)])
    high = max([0.0, *(row.difference.high for row in rows)])
    scale = 100 / ((high - low) or 1.0)
    return tuple(
        replace(
            row,
            left=round((row.difference.low - low) * scale, 2),
            width=round((row.difference.high - row.difference.low) * scale, 2),
            point=round((row.difference.value - low) * scale, 2),
            zero=round(-low * scale, 2),
        )
        for row in rows
    )
