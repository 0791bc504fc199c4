"""Checks of a user's sample beyond its types: visible text, a usable kind, an answer among the choices."""

import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llava_av.datasets.schema import Sample

__all__ = ["names_choice", "unusable"]

# Kinds become parts of metric names, in which MLflow allows these characters.
_KIND = re.compile(r"[^\W_][\w .:-]{0,99}")
_INVISIBLE_CATEGORIES = {"Zs", "Zl", "Zp", "Cc", "Cf"}
# Fillers and selectors that Unicode classifies as letters, symbols or marks although they are invisible.
_INVISIBLE = {
    *("\u034f", "\u115f", "\u1160", "\u17b4", "\u17b5", "\u180b", "\u180c", "\u180d", "\u180f"),
    *("\u2800", "\u3164", "\uffa0", *map(chr, range(0xFE00, 0xFE10)), *map(chr, range(0xE0100, 0xE01F0))),
}


def unusable(sample: "Sample") -> str | None:
    """Return the reason why a sample with valid types cannot be used; None if it can.

    Every answer needs visible text, and so does every question except the first of a sample with media.
    """
    for number, turn in enumerate(sample.conversations, start=1):
        media_are_question = turn.speaker == "human" and number == 1 and sample.media
        if _is_blank(turn.value) and not media_are_question:
            return f"turn {number} from {turn.speaker} is blank: write its text, or remove the sample"
    for field, texts in (("id", (sample.id,)), ("choices", sample.choices)):
        if any(map(_is_blank, texts)):
            return f"{field} contains a blank text: write it, or remove it"
    if not _KIND.fullmatch(sample.kind):
        return (
            f"kind: {sample.kind[:60]!r} cannot be part of a metric's name: use up to 100 letters, digits, "
            "spaces and _ - . : that begin with a letter or digit"
        )
    return None


def names_choice(sample: "Sample") -> bool:
    """Check whether the last answer contains one of the choices, if there are any.

    Evaluation counts every reply to a sample for which this is False as wrong.
    """
    answer = sample.conversations[-1].value.casefold()
    return not sample.choices or any(choice.strip().casefold() in answer for choice in sample.choices)


def _is_blank(text: str) -> bool:
    return all(mark in _INVISIBLE or unicodedata.category(mark) in _INVISIBLE_CATEGORIES for mark in text)
