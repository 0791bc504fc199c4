"""Synthetic samples of the benchmark on a GPU: text, audio, and videos with and without audio.

Media are noise of mixed length that is drawn when a sample is loaded, in place of decoding.
"""

from dataclasses import dataclass

import numpy as np

from benchmarks.gpu_models import config_of
from llava_av.media.clip import Clip, SampleSize, Video
from llava_av.model import Encoded, LlavaAvConfig, LlavaAvProcessor
from llava_av.model.sequence.tokenizer import train_tokenizer

__all__ = ["Order", "SampleData", "SyntheticSample", "Turn", "draw_samples", "load_clip"]

_WORDS = ("a", "red", "ball", "rises", "then", "low", "tone", "follows", "while", "voices", "fade")
_FULL_ROW, _LONGEST_S = 8_192, 30.0
"""Tokens of a row for samples of up to so many seconds; shorter rows get shorter samples."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One turn of a conversation."""

    speaker: str
    value: str


@dataclass(frozen=True, kw_only=True)
class SyntheticSample:
    """A sample as the loader reads it, and the length of its media."""

    id: str
    conversations: tuple[Turn, ...]
    seconds: int
    has_frames: bool
    has_audio: bool
    kind: str = "all"

    @property
    def media_key(self) -> str:
        """Return the ID: no two samples share media."""
        return self.id


class Order:
    """Order of samples without a shuffle."""

    def __init__(self, samples: int, batch: int) -> None:
        self._samples, self._batch = samples, batch

    def step(self, step: int) -> list[int]:
        """Return the indices of the samples of a step."""
        return [(step * self._batch + place) % self._samples for place in range(self._batch)]


def draw_samples(count: int, pack_length: int) -> list[SyntheticSample]:
    """Draw samples, none longer than a row.

    Args:
        count: Number of samples.
        pack_length: Tokens of a row.
    """
    draw = np.random.default_rng(0)
    longest_s = max(2.0, _LONGEST_S * pack_length / _FULL_ROW)
    most_words = max(8, pack_length // 16)
    samples = []
    for number in range(count):
        kind = draw.random()
        words = draw.choice(_WORDS, int(draw.integers(4, most_words)))
        turns = (Turn(speaker="human", value="What happens?"), Turn(speaker="gpt", value=" ".join(words)))
        seconds = float(np.clip(draw.lognormal(np.log(longest_s / 3), 0.7), 1, longest_s))
        samples.append(
            SyntheticSample(
                id=str(number),
                conversations=turns,
                seconds=round(seconds),
                has_frames=kind > 0.3,
                has_audio=0.15 < kind < 0.85,
            )
        )
    return samples


def load_clip(sample: SyntheticSample, config: LlavaAvConfig) -> Clip:
    """Draw the media of a sample: one frame for each second, and audio."""
    draw = np.random.default_rng(int(sample.id))
    audio = None
    if sample.has_audio:
        audio = draw.standard_normal(config.sample_rate_hz * sample.seconds, dtype=np.float32) * 0.1
    if not sample.has_frames:
        return Clip() if audio is None else Clip(audios=(audio,))
    shape = (sample.seconds, config.frame_size, config.frame_size, 3)
    video = Video(
        frames_nhwc=np.frombuffer(draw.bytes(int(np.prod(shape))), np.uint8).reshape(shape),
        frame_times_s=tuple(0.5 + second for second in range(sample.seconds)),
        audio=audio,
    )
    return Clip(videos=(video,))


@dataclass(frozen=True, kw_only=True)
class SampleData:
    """Samples of a benchmark with the processor of its model."""

    processor: LlavaAvProcessor
    samples: list[SyntheticSample]
    encoded: list[Encoded]
    """The samples, loaded and encoded."""

    @classmethod
    def draw(cls, base: str, count: int, pack_length: int, *, small: bool) -> "SampleData":
        """Draw samples for a base model; arguments as for `draw_samples` and `config_of`."""
        tokenizer = train_tokenizer((" ".join(_WORDS), "What happens?"), 1_000)
        processor = LlavaAvProcessor(tokenizer, config_of(base, tokenizer, small=small))
        samples = draw_samples(count, pack_length)
        encoded = [
            processor.encode(
                [(turn.speaker, turn.value) for turn in sample.conversations],
                load_clip(sample, processor.config),
            )
            for sample in samples
        ]
        return cls(processor=processor, samples=samples, encoded=encoded)

    def sizes(self) -> list[SampleSize]:
        """Return the size of each sample."""
        return [
            SampleSize(
                tokens=len(one.input_ids),
                frames=tuple(map(len, one.frames_nhwc)),
                audios=tuple(map(len, one.audios)),
            )
            for one in self.encoded
        ]
