"""Confusion matrices for kinds of question with few answers."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llava_av.report.labels import ordered_kinds
from llava_av.runs import Prediction
from llava_av.vocabulary import Ablation

__all__ = ["UNPARSED", "Confusion", "ConfusionRow", "confusions"]

UNPARSED = "no choice"
"""Column of unparsed replies."""
_MOST_ANSWERS = 12
_MOST_CHARACTERS = 24


@dataclass(frozen=True, kw_only=True)
class ConfusionRow:
    """Counts of the replies to questions with one correct answer."""

    answer: str
    counts: tuple[int, ...]
    """Counts in the order of the columns."""
    shares: tuple[float, ...]
    """Counts in percent of the row."""


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Confusion matrix of one kind of question, with correct answers as rows and replies as columns."""

    kind: str
    columns: tuple[str, ...]
    """Answers in the order of the rows, then other replies, then `UNPARSED` if it occurs."""
    rows: tuple[ConfusionRow, ...]


def confusions(predictions: Iterable[Prediction]) -> tuple[Confusion, ...]:
    """Return a matrix for each kind of question, from the replies with all modalities.

    Kinds with more than twelve different answers or with long answers have no matrix, because it would be
    unreadable.

    Args:
        predictions: All replies under all ablations.
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
