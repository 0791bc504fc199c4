"""Choice of the clips in a report, and their embedded media."""

import re
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_av.report.labels import ordered_ablations
from llava_av.report.media import Media, embedded_media, reasons_left_out
from llava_av.report.previews import Preview, preview
from llava_av.runs import Prediction

__all__ = [
    "HARD_LOSS",
    "MOST_CLIPS",
    "ClipCard",
    "ClipQuestion",
    "Reply",
    "choose_clips",
    "has_hard",
    "shown_samples",
]

MOST_CLIPS = 8
"""Maximum number of clips in a report."""
_QUESTIONS_PER_CLIP = 6
_TEXT_CHARACTERS = 400
_LONG_CHARACTERS = 32
"""Longer answers are stacked; shorter ones fit in the columns of a table."""
_UNPARSED_CHARACTERS = 30
"""Maximum length of an unparsed reply in a column."""
HARD_LOSS = 0.1
"""Loss in nats per token from which a clip is hard: the model gives each token less than 90 % probability."""
_PLACEHOLDER = re.compile(r"<(?:image|video|audio)>\s*")


@dataclass(frozen=True, kw_only=True)
class Reply:
    """Reply of the model under one ablation."""

    ablation: str
    text: str
    verdict: str
    """`right`, `wrong` or `unparsed`, which also counts as wrong."""


@dataclass(frozen=True, kw_only=True)
class ClipQuestion:
    """A question with its correct answer, and a reply or None for each ablation of the card."""

    id: str
    kind: str
    text: str
    answer: str
    loss: float | None
    """Loss of the correct answer with all modalities, in nats per token; None if it was not computed."""
    choices: tuple[str, ...]
    replies: tuple[Reply | None, ...]


@dataclass(frozen=True, kw_only=True)
class ClipCard:
    """A clip with the questions about it."""

    name: str
    ablations: tuple[str, ...]
    questions: tuple[ClipQuestion, ...]
    more_questions: int
    """Number of further questions about the clip."""
    long: bool
    """True if an answer is too long for a column."""
    wrong: bool
    """True if the model answered a question incorrectly with all modalities."""
    media: Media | None
    left_out: str
    """Reason why the media are missing; empty if they are embedded."""
    preview: Preview


def choose_clips(
    predictions: Sequence[Prediction],
    files: Mapping[str, Path],
    *,
    count: int,
    max_bytes: int,
) -> tuple[ClipCard, ...]:
    """Return the hardest clips, with wrong answers first, then by loss, for all kinds in turn.

    If possible, at least a quarter of the cards are clips without a wrong answer. Smaller files are embedded
    first, so that a few large files do not displace all others. A card without its file shows the reason.

    Args:
        predictions: All replies under all ablations.
        files: Local file of each media path.
        count: Maximum number of cards.
        max_bytes: Maximum base64 characters of all media together.
    """
    chosen = _chosen(predictions, count)
    names = {row.clip for rows in chosen.values() for row in rows if row.clip}
    media = _embed({name: files.get(name) for name in names}, max_bytes)
    return tuple(_card(clip, rows, media, files) for clip, rows in chosen.items())


def shown_samples(predictions: Sequence[Prediction]) -> frozenset[str]:
    """Return the IDs of the samples about the clips that a report shows."""
    return frozenset(row.id for rows in _chosen(predictions, MOST_CLIPS).values() for row in rows)


def _chosen(predictions: Sequence[Prediction], count: int) -> dict[str, list[Prediction]]:
    """Return the chosen clips in their order, each with its replies."""
    by_clip: dict[str, list[Prediction]] = defaultdict(list)
    for row in predictions:
        by_clip[row.clip or row.id].append(row)
    wrong = _spread({clip: rows for clip, rows in by_clip.items() if _has_wrong(rows)}, count)
    right = _spread({clip: rows for clip, rows in by_clip.items() if not _has_wrong(rows)}, count)
    kept_right = min(len(right), max(count // 4, count - len(wrong)))
    return {clip: by_clip[clip] for clip in wrong[: count - kept_right] + right[:kept_right]}


def has_hard(cards: Iterable[ClipCard]) -> bool:
    """Return whether a clip is hard: with a wrong answer, or a loss of at least `HARD_LOSS`."""
    return any(
        card.wrong or any((question.loss or 0.0) >= HARD_LOSS for question in card.questions)
        for card in cards
    )


def _first_ablation(rows: Iterable[Prediction]) -> str:
    return ordered_ablations(row.ablation for row in rows)[0]


def _has_wrong(rows: Sequence[Prediction]) -> bool:
    full = _first_ablation(rows)
    return any(not row.correct for row in rows if row.ablation == full)


def _difficulty(rows: Sequence[Prediction]) -> float:
    """Return the largest loss of a correct answer with all modalities."""
    full = _first_ablation(rows)
    return max((row.loss for row in rows if row.ablation == full), default=0.0)


def _spread(by_clip: Mapping[str, Sequence[Prediction]], count: int) -> list[str]:
    """Choose `count` clips from all kinds of question in turn, the hardest of a kind first.

    If a clip has wrong answers, only their kinds count.
    """
    queues: dict[str, deque[str]] = defaultdict(deque)
    for clip in sorted(by_clip, key=lambda clip: (-_difficulty(by_clip[clip]), clip)):
        rows = by_clip[clip]
        full = _first_ablation(rows)
        kinds = {row.kind for row in rows if not row.correct and row.ablation == full}
        for kind in kinds or {row.kind for row in rows}:
            queues[kind].append(clip)
    chosen: dict[str, None] = {}
    while queues and len(chosen) < count:
        for kind in sorted(queues):
            while queues[kind] and queues[kind][0] in chosen:
                queues[kind].popleft()
            if queues[kind]:
                chosen[queues[kind].popleft()] = None
            else:
                del queues[kind]
    return list(chosen)[:count]


def _embed(files: Mapping[str, Path | None], max_bytes: int) -> dict[str, Media | str]:
    """Return by path the media, or the reason why they are not embedded."""
    found = {name: path for name, path in files.items() if path is not None and path.is_file()}
    reasons = reasons_left_out({name: path.stat().st_size for name, path in found.items()}, max_bytes)
    result: dict[str, Media | str] = dict.fromkeys(files, "the file was missing when the report was written")
    for name, reason in reasons.items():
        result[name] = reason or embedded_media(found[name])
    return result


def _card(
    clip: str,
    rows: Sequence[Prediction],
    media: Mapping[str, Media | str],
    files: Mapping[str, Path],
) -> ClipCard:
    ablations = tuple(ordered_ablations(row.ablation for row in rows))
    # A conversation of several turns gives several questions with one ID.
    asked: dict[tuple[str, ...], dict[str, Prediction]] = defaultdict(dict)
    for row in rows:
        asked[(row.kind, row.id, row.question, row.answer)][row.ablation] = row
    # Questions with wrong answers come first, then the order of kinds applies.
    order = sorted(asked, key=lambda key: (_right(asked[key], ablations), key))
    name = next((row.clip for row in rows if row.clip), None)
    found = media[name] if name else "the question has no clip"
    long = any(map(_is_long, rows))
    questions = tuple(_question(asked[key], ablations, long=long) for key in order[:_QUESTIONS_PER_CLIP])
    return ClipCard(
        name=name or clip,
        ablations=ablations,
        questions=questions,
        long=long,
        more_questions=max(0, len(order) - _QUESTIONS_PER_CLIP),
        wrong=_has_wrong(rows),
        media=found if isinstance(found, Media) else None,
        left_out=found if isinstance(found, str) else "",
        preview=preview(files[name]) if name and name in files else Preview(),
    )


def _is_long(row: Prediction) -> bool:
    """Return whether the answer or the reply is too long for a column; unparsed replies are cut instead."""
    cut = row.parsed is None and bool(row.choices)
    return max(len(row.answer), 0 if cut else len(row.reply)) > _LONG_CHARACTERS


def _any(by_ablation: Mapping[str, Prediction]) -> Prediction:
    return next(iter(by_ablation.values()))


def _right(by_ablation: Mapping[str, Prediction], ablations: Sequence[str]) -> bool:
    row = by_ablation.get(ablations[0])
    return row is None or row.correct


def _question(by_ablation: Mapping[str, Prediction], ablations: Sequence[str], *, long: bool) -> ClipQuestion:
    row = _any(by_ablation)
    return ClipQuestion(
        id=row.id,
        kind=row.kind,
        # The page shows the clip next to its questions, so the placeholder is redundant.
        text=_clipped(_PLACEHOLDER.sub("", row.question)),
        answer=_clipped(row.answer),
        loss=full.loss if (full := by_ablation.get(ablations[0])) else None,
        choices=row.choices,
        replies=tuple(_reply(by_ablation.get(name), long=long) for name in ablations),
    )


def _reply(row: Prediction | None, *, long: bool) -> Reply | None:
    if row is None:
        return None
    verdict = "right" if row.correct else "wrong" if row.parsed is not None else "unparsed"
    longest = _UNPARSED_CHARACTERS if verdict == "unparsed" and not long else _TEXT_CHARACTERS
    return Reply(ablation=row.ablation, text=_clipped(row.reply, longest), verdict=verdict)


def _clipped(text: str, longest: int = _TEXT_CHARACTERS) -> str:
    text = text.strip()
    return text if len(text) <= longest else text[: longest - 1] + "…"
