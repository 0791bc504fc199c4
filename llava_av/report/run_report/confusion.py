"""Confusion matrices of the kinds of question that have few answers."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llava_av.report.labels import ordered_kinds
from llava_av.runs import Prediction
from llava_av.vocabulary import Ablation

__all__ = ["UNPARSED", "Confusion", "ConfusionRow", "confusions"]

UNPARSED = "no choice"
"""Column of the replies that name no choice."""
_MOST_ANSWERS = 12
_MOST_CHARACTERS = 24


@dataclass(frozen=True, kw_only=True)
class ConfusionRow:
    """How often each reply was given where one answer was right."""

    answer: str
    counts: tuple[int, ...]
    """In the order of the columns."""
    shares: tuple[float, ...]
    """The same in per cent of the row."""


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Right answers against replies, of one kind of question."""

    kind: str
    columns: tuple[str, ...]
    """Replies: the answers in the order of the rows, what else was replied, then `UNPARSED` if it occurs."""
    rows: tuple[ConfusionRow, ...]


def confusions(predictions: Iterable[Prediction]) -> tuple[Confusion, ...]:
    """Return a matrix for each kind, from the replies with nothing removed.

    Kinds with more than twelve different answers, or with sentences for answers, have none: their matrix
    would say nothing at a glance.

    Args:
        predictions: every reply of every ablation.
    """
    by_kind: dict[str, list[Prediction]] = {}
    for row in predictions:
        if row.ablation == Ablation.AUDIO_VISUAL and row.choices:
            by_kind.setdefault(row.kind, []).append(row)
    found = (_confusion(kind, by_kind[kind]) for kind in ordered_kinds(by_kind))
    return tuple(matrix for matrix in found if matrix is not None)


def _confusion(kind: str, rows: Sequence[Prediction]) -> Confusion | None:
    counts = Counter((row.answer, row.parsed or UNPARSED) for row in rows)
    answers = sorted({row.answer for row in rows})
    others = sorted({reply for _, reply in counts} - {*answers, UNPARSED})
    columns = (*answers, *others, *([UNPARSED] if any(reply == UNPARSED for _, reply in counts) else []))
    choices = [column for column in columns if column != UNPARSED]
    if len(columns) < 2 or len(choices) > _MOST_ANSWERS or max(map(len, columns)) > _MOST_CHARACTERS:
        return None
    return Confusion(
        kind=kind, columns=columns, rows=tuple(_row(answer, columns, counts) for answer in answers)
    )


def _row(answer: str, columns: Sequence[str], counts: Counter[tuple[str, str]]) -> ConfusionRow:
    own = tuple(counts[answer, reply] for reply in columns)
    return ConfusionRow(answer=answer, counts=own, shares=tuple(round(100 * n / sum(own), 1) for n in own))
