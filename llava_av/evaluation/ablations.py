"""Removal of the modalities that an ablation leaves out, from a conversation and its media."""

import re
from collections.abc import Sequence

from llava_av.media.clip import Clip
from llava_av.vocabulary import Ablation

__all__ = ["apply_ablation"]


def apply_ablation(
    ablation: Ablation, turns: Sequence[tuple[str, str]], clip: Clip
) -> tuple[tuple[tuple[str, str], ...], Clip]:
    """Remove modalities from a conversation and from its media; `shuffling.py` exchanges audio.

    The placeholder of a video marks the position of its tokens, so it stays if the frames or the audio of the
    video stay. If everything is removed, no placeholder stays.

    Args:
        ablation: The modalities to keep.
        turns: (speaker, text) in order, with `<video>`, `<audio>` and `<image>` in the texts.
        clip: The decoded media.

    Returns:
        The turns without the placeholders of removed media, and the clip without their arrays. If everything
        is kept, both are unchanged.
    """
    removed = _removed_placeholders(ablation)
    stripped = tuple((speaker, _without_placeholders(text, removed)) for speaker, text in turns)
    if not ablation.removes_modality:
        return stripped, clip
    return stripped, clip.without(video=not ablation.keeps_video, audio=not ablation.keeps_audio)


def _removed_placeholders(ablation: Ablation) -> tuple[str, ...]:
    removed = [] if ablation.keeps_video else ["<image>"]
    removed += [] if ablation.keeps_audio else ["<audio>"]
    removed += [] if ablation.keeps_video or ablation.keeps_audio else ["<video>"]
    return tuple(removed)


def _without_placeholders(text: str, placeholders: Sequence[str]) -> str:
    """Return the text without placeholders and without the extra white space around them."""
    if not any(placeholder in text for placeholder in placeholders):
        return text
    marks = "|".join(re.escape(placeholder) for placeholder in placeholders)
    return re.sub(rf"\s*(?:{marks})(?:\s|{marks})*", _gap, text).strip()


def _gap(match: re.Match[str]) -> str:
    return "\n" if "\n" in match.group() else " "
