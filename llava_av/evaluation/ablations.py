"""The five ways each question is asked: which streams the model gets, and whose sound it is."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from llava_av.media.clip import Clip

__all__ = [
    "ABLATIONS",
    "AUDIO_ONLY",
    "AUDIO_VISUAL",
    "SHUFFLED_AUDIO",
    "TEXT_ONLY",
    "VIDEO_ONLY",
    "Ablation",
]


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Which streams of a sample the model gets; a stream taken away has no token in the sequence."""

    name: str
    """Name in `predictions.jsonl` and `evaluation.json`."""
    label: str
    """What the model is given, for readers."""
    keeps_video: bool
    """Whether the frames of videos and still images stay."""
    keeps_audio: bool
    """Whether sound stays, be it a file of its own or a video's."""
    foreign_audio: bool = False
    """Whether each sound is another clip's, as `llava_av.evaluation.shuffling` lends it."""

    def apply(self, turns: Sequence[tuple[str, str]], clip: Clip) -> tuple[tuple[tuple[str, str], ...], Clip]:
        """Takes the streams away from a conversation and from its media; sound is exchanged elsewhere.

        A video's placeholder stays while either of its streams does: it marks where that stream's tokens
        belong. With nothing kept there is no placeholder at all.

        Args:
            turns: (speaker, text) in order, with `<video>`, `<audio>` and `<image>` in the texts.
            clip: the decoded media.

        Returns:
            The turns without the placeholders of what is gone, and the clip without its arrays. Where
            everything is kept both are what was given.
        """
        gone = self._placeholders_gone()
        stripped = tuple((speaker, _without_placeholders(text, gone)) for speaker, text in turns)
        if self.keeps_video and self.keeps_audio:
            return stripped, clip
        return stripped, clip.without(video=not self.keeps_video, audio=not self.keeps_audio)

    def _placeholders_gone(self) -> tuple[str, ...]:
        gone = [] if self.keeps_video else ["<image>"]
        gone += [] if self.keeps_audio else ["<audio>"]
        gone += [] if self.keeps_video or self.keeps_audio else ["<video>"]
        return tuple(gone)


AUDIO_VISUAL = Ablation(name="av", label="Video + audio", keeps_video=True, keeps_audio=True)
VIDEO_ONLY = Ablation(name="video_only", label="Video only", keeps_video=True, keeps_audio=False)
AUDIO_ONLY = Ablation(name="audio_only", label="Audio only", keeps_video=False, keeps_audio=True)
TEXT_ONLY = Ablation(name="text_only", label="Text only", keeps_video=False, keeps_audio=False)
SHUFFLED_AUDIO = Ablation(
    name="shuffled_audio", label="Shuffled audio", keeps_video=True, keeps_audio=True, foreign_audio=True
)
ABLATIONS = (AUDIO_VISUAL, VIDEO_ONLY, AUDIO_ONLY, TEXT_ONLY, SHUFFLED_AUDIO)
"""From everything to nothing, then the control: the order of every table."""


def _without_placeholders(text: str, placeholders: Sequence[str]) -> str:
    """The text without them and without the gaps that they would leave."""
    if not any(placeholder in text for placeholder in placeholders):
        return text
    marks = "|".join(re.escape(placeholder) for placeholder in placeholders)
    return re.sub(rf"\s*(?:{marks})(?:\s|{marks})*", _gap, text).strip()


def _gap(match: re.Match[str]) -> str:
    return "\n" if "\n" in match.group() else " "
