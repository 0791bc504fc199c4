"""Terms that several packages share: recipe and model, evaluation, registry, report and command line.

Each member is also the string that recipes, objects in S3 and metric names contain.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Literal, get_args

__all__ = [
    "EARLIER_OVER_LIMITS",
    "HELD_OUT_TASK",
    "PART_NAMES",
    "Ablation",
    "GateVerdict",
    "Modality",
    "PartName",
    "QuestionFamily",
    "family_of",
    "in_order",
]

HELD_OUT_TASK = "held-out"
"""Name of the task that each run is evaluated on: the questions of its own held-out split."""

PartName = Literal[
    "vision_tower", "vision_connector", "audio_tower", "audio_connector", "language", "embeddings"
]
"""Part of a model. The connectors are all weights between a tower and the language model; `language` are the
layers of the language model, and `embeddings` its input embeddings and its head."""
PART_NAMES: tuple[PartName, ...] = get_args(PartName)
EARLIER_OVER_LIMITS: Mapping[str, str] = MappingProxyType({"shorter_sound": "shorter_audio"})
"""Earlier names of values of `over_limit`, in recipes and in models, with the current names."""


class Modality(StrEnum):
    """A kind of input."""

    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"
    TEXT = "text"


class Ablation(StrEnum):
    """An input condition under which every question is asked, in the order of every table.

    A removed modality has no token in the sequence.
    """

    AUDIO_VISUAL = "av"
    VIDEO_ONLY = "video_only"
    AUDIO_ONLY = "audio_only"
    TEXT_ONLY = "text_only"
    SHUFFLED_AUDIO = "shuffled_audio"
    """A control: nothing is removed, but each clip has the audio of another clip."""

    @property
    def label(self) -> str:
        """Return the input that the model gets, for readers."""
        return _LABELS[self]

    @property
    def keeps_video(self) -> bool:
        """Return whether video frames and images stay."""
        return self not in (Ablation.AUDIO_ONLY, Ablation.TEXT_ONLY)

    @property
    def keeps_audio(self) -> bool:
        """Return whether audio stays, both audio files and the audio of videos."""
        return self not in (Ablation.VIDEO_ONLY, Ablation.TEXT_ONLY)

    @property
    def removes_modality(self) -> bool:
        """Return whether the model gets less than the sample contains."""
        return not (self.keeps_video and self.keeps_audio)


_LABELS = {
    Ablation.AUDIO_VISUAL: "Audio and video",
    Ablation.VIDEO_ONLY: "Video only",
    Ablation.AUDIO_ONLY: "Audio only",
    Ablation.TEXT_ONLY: "Text only",
    Ablation.SHUFFLED_AUDIO: "Shuffled audio",
}


class QuestionFamily(StrEnum):
    """Modalities that a question needs, in the order of every table. User data may add other families."""

    VISUAL = "visual"
    AUDIO = "audio"
    JOINT = "joint"
    ALL = "all"
    """Samples that state no kind."""


class GateVerdict(StrEnum):
    """Decision of a gate."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_RUN = "not run"

    @classmethod
    def of(cls, passed: bool | None) -> "GateVerdict":
        """Return the verdict for `passed` of gate.json, which is None if the gate was not run."""
        if passed is None:
            return cls.NOT_RUN
        return cls.PASSED if passed else cls.FAILED


def family_of(kind: str) -> str:
    """Return the family of a kind of question: `joint` for `joint_colour` and `joint_side`."""
    return kind.partition("_")[0]


def in_order(names: Iterable[str], order: Iterable[str]) -> list[str]:
    """Return names without duplicates: those in `order` first, in that order, then the others by name."""
    given = set(names)
    known = [str(name) for name in order if name in given]
    return known + sorted(given - set(known))
