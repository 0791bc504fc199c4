"""Differences with their intervals on an axis that they share: between ablations, and between models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava_av.report.labels import ordered_ablations, ordered_families
from llava_av.report.run_report.inputs import ComparisonView, Difference

__all__ = ["ForestRow", "compared_rows", "difference_rows"]


@dataclass(frozen=True, kw_only=True)
class ForestRow:
    """A difference with its places on a shared axis, in per cent of the axis' width."""

    ablation: str
    family: str
    difference: Difference
    left: float
    width: float
    point: float
    zero: float
    first: float | None = None
    """The accuracy that is compared with; None where only the difference is given."""
    second: float | None = None
    paired: bool = True
    """Whether both answered the same questions."""

    @property
    def verdict(self) -> str:
        """`better`, `worse` or `open`, as the interval lies above 0, below it or across."""
        if self.difference.low > 0:
            return "better"
        return "worse" if self.difference.high < 0 else "open"


def difference_rows(evaluation: Mapping[str, Any]) -> tuple[ForestRow, ...]:
    """What each removed or exchanged modality costs, as evaluation.json has it."""
    given = evaluation.get("differences") or {}
    rows = [
        {"ablation": name, "family": family, "difference": Difference.model_validate(given[name][family])}
        for name in ordered_ablations(given)
        for family in ordered_families(given[name])
    ]
    return _on_one_axis(rows)


def compared_rows(comparison: ComparisonView) -> tuple[ForestRow, ...]:
    """What this model has over another one, by ablation and family."""
    return _on_one_axis(
        [
            {
                "ablation": row.ablation,
                "family": row.family,
                "difference": Difference(value=row.value, low=row.low, high=row.high),
                "first": row.first,
                "second": row.second,
                "paired": row.paired,
            }
            for row in comparison.rows
        ]
    )


def _on_one_axis(rows: Sequence[Mapping[str, Any]]) -> tuple[ForestRow, ...]:
    """The rows on an axis that holds zero and every interval."""
    pairs: list[Difference] = [row["difference"] for row in rows]
    low = min([0.0, *(pair.low for pair in pairs)])
    high = max([0.0, *(pair.high for pair in pairs)])
    scale = 100 / ((high - low) or 1.0)
    return tuple(
        ForestRow(
            **row,
            left=round((pair.low - low) * scale, 2),
            width=round((pair.high - pair.low) * scale, 2),
            point=round((pair.value - low) * scale, 2),
            zero=round(-low * scale, 2),
        )
        for row, pair in zip(rows, pairs, strict=True)
    )
