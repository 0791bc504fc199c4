"""Checks of a user's sample beyond its types: text that shows something, and a kind that can be a name."""

import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llava_av.datasets.schema import Sample

__all__ = ["unusable"]

# Kinds are parts of metric names, for which MLflow permits these.
_KIND = re.compile(r"[^\W_][\w .:-]{0,99}")
_INVISIBLE_CATEGORIES = {"Zs", "Zl", "Zp", "Cc", "Cf"}
# Fillers and selectors that Unicode calls letters, symbols or marks, although they show nothing.
_INVISIBLE = {
    *("\u034f", "\u115f", "\u1160", "\u17b4", "\u17b5", "\u180b", "\u180c", "\u180d", "\u180f"),
    *("\u2800", "\u3164", "\uffa0", *map(chr, range(0xFE00, 0xFE10)), *map(chr, range(0xE0100, 0xE01F0))),
}


def unusable(sample: "Sample") -> str | None:
    """Return why a sample of valid types cannot be used; None if it can.

    Each answer needs visible text, and so does each question but the first of a sample with media.
    """
    for number, turn in enumerate(sample.conversations, start=1):
        question_by_media = turn.speaker == "human" and number == 1 and sample.media
        if _shows_nothing(turn.value) and not question_by_media:
            return f"turn {number} from {turn.speaker} is blank: write its text, or leave the sample out"
    for field, texts in (("id", (sample.id,)), ("choices", sample.choices)):
        if any(map(_shows_nothing, texts)):
            return f"{field} holds a blank text: write it, or leave it out"
    if not _KIND.fullmatch(sample.kind):
        return (
            f"kind: {sample.kind[:60]!r} cannot be part of a metric's name: use up to 100 letters, digits, "
            "spaces and _ - . : that begin with a letter or digit"
        )
    return None


def _shows_nothing(text: str) -> bool:
    return all(mark in _INVISIBLE or unicodedata.category(mark) in _INVISIBLE_CATEGORIES for mark in text)
