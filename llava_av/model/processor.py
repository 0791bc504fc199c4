"""From conversations and decoded media to tensors; every token count is known before the model runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from llava_av.media.clip import Clip, Video
from llava_av.model.config import LlavaAvConfig
from llava_av.model.modeling import IGNORE, MediaBatch
from llava_av.model.sequence import interleave
from llava_av.model.tokenizer import PLACEHOLDERS, TURN_END, TURN_START

__all__ = ["Encoded", "LlavaAvProcessor"]

_ROLES = {"human": "user", "gpt": "assistant"}


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One sample, ready to be collated."""

    input_ids: list[int]
    labels: list[int]
    """As long as `input_ids`; `IGNORE` outside the assistant's turns."""
    frames_nhwc: list[np.ndarray]
    images_nhwc: list[np.ndarray]
    sounds: list[np.ndarray]


class LlavaAvProcessor:
    """Expands placeholders, tokenises, marks labels and makes batches."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: LlavaAvConfig) -> None:
        self.tokenizer = tokenizer
        self.config = config

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "LlavaAvProcessor":
        """Reads tokenizer and config from a model's folder."""
        return cls(AutoTokenizer.from_pretrained(folder), LlavaAvConfig.from_pretrained(folder))

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the tokenizer; the config is the model's to write."""
        self.tokenizer.save_pretrained(folder)

    def encode(
        self, turns: Sequence[tuple[str, str]], clip: Clip, *, reply: bool = False, last_only: bool = False
    ) -> Encoded:
        """Encodes one conversation.

        Args:
            turns: (`human` or `gpt`, text) in order; `<video>`, `<audio>` and `<image>` in a human's text
                stand for the clip's media in order, media without a placeholder come first of all.
            clip: the decoded media.
            reply: end with the opening of an assistant's turn, to be continued by `generate`.
            last_only: label the last turn only, not every turn of the assistant.

        Raises:
            ValueError: more placeholders than media, with both counts.
        """
        texts = self._expand([text for _, text in turns], clip)
        input_ids: list[int] = []
        labels: list[int] = []
        for number, ((speaker, _), text) in enumerate(zip(turns, texts, strict=True), start=1):
            opening = self._tokens(f"{TURN_START}{_ROLES[speaker]}\n")
            content = self._tokens(f"{text}{TURN_END}")
            closing = self._tokens("\n")
            input_ids += opening + content + closing
            labels += [IGNORE] * len(opening)
            labelled = speaker == "gpt" and (number == len(turns) or not last_only)
            labels += content if labelled else [IGNORE] * len(content)
            labels += [IGNORE] * len(closing)
        if reply:
            opening = self._tokens(f"{TURN_START}assistant\n")
            input_ids += opening
            labels += [IGNORE] * len(opening)
        sounds = [video.audio for video in clip.videos if video.audio is not None] + list(clip.sounds)
        return Encoded(
            input_ids=input_ids,
            labels=labels,
            frames_nhwc=[video.frames_nhwc for video in clip.videos if len(video.frames_nhwc)],
            images_nhwc=list(clip.images_nhwc),
            sounds=[sound for sound in sounds if self.config.audio_tokens(len(sound))],
        )

    def count_tokens(self, turns: Sequence[tuple[str, str]], clip: Clip) -> int:
        """Length of the encoded sample, before any tower has run."""
        return len(self.encode(turns, clip).input_ids)

    def collate(self, samples: Sequence[Encoded], *, left: bool = False) -> dict[str, Any]:
        """Pads to one batch.

        Args:
            samples: encoded samples.
            left: pad on the left, as generation needs.

        Returns:
            Arguments of the model's `forward`: `input_ids`, `attention_mask` and `labels`
            `[batch, length]`, and `media`, in which arrays that several samples share are there once.
        """
        length = max(len(sample.input_ids) for sample in samples)
        pad = self.tokenizer.pad_token_id
        return {
            "input_ids": _padded([sample.input_ids for sample in samples], length, pad, left),
            "attention_mask": _padded([[1] * len(sample.input_ids) for sample in samples], length, 0, left),
            "labels": _padded([sample.labels for sample in samples], length, IGNORE, left),
            "media": _media(samples),
        }

    def _tokens(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _expand(self, texts: list[str], clip: Clip) -> list[str]:
        """Puts runs of placeholder tokens where the media belong."""
        runs = {
            "video": [self._video_run(video) for video in clip.videos],
            "audio": [self._sound_run(sound) for sound in clip.sounds],
            "image": [PLACEHOLDERS["image"] * self.config.tokens_per_frame() for _ in clip.images_nhwc],
        }
        unnamed = ""
        for kind, expansions in runs.items():
            named = sum(text.count(f"<{kind}>") for text in texts)
            if named > len(expansions):
                raise ValueError(f"{named} <{kind}> placeholders but {len(expansions)} {kind} files")
            missing = len(expansions) - named
            unnamed += "".join(expansions[:missing])
            remaining = iter(expansions[missing:])
            texts = [_fill(text, f"<{kind}>", remaining) for text in texts]
        return [unnamed + texts[0], *texts[1:]]

    def _video_run(self, video: Video) -> str:
        tokens = self.config.audio_tokens(len(video.audio)) if video.audio is not None else 0
        duration_s = len(video.audio) / self.config.sample_rate_hz if video.audio is not None else 0.0
        runs = interleave(
            video.frame_times_s,
            [self.config.tokens_per_frame()] * len(video.frame_times_s),
            tokens,
            duration_s,
            self.config.chunk_s,
        )
        return "".join(PLACEHOLDERS[run.kind] * run.count for run in runs)

    def _sound_run(self, sound: np.ndarray) -> str:
        return PLACEHOLDERS["audio"] * self.config.audio_tokens(len(sound))


def _fill(text: str, mark: str, expansions: Any) -> str:
    head, *rest = text.split(mark)
    return head + "".join(next(expansions) + part for part in rest)


def _normalised(sound: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance, as wav2vec2's feature extractor does."""
    return np.asarray((sound - sound.mean()) / np.sqrt(sound.var() + 1e-7), dtype=np.float32)


def _padded(rows: Sequence[Sequence[int]], length: int, value: int, left: bool) -> Tensor:
    padding = [[value] * (length - len(row)) for row in rows]
    return torch.tensor(
        [pad + list(row) if left else list(row) + pad for row, pad in zip(rows, padding, strict=True)]
    )


class _Distinct:
    """Arrays by identity, in order of first sight, and where each one's rows begin."""

    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []
        self._first_row: dict[int, int] = {}
        self._rows = 0

    def add(self, array: np.ndarray, rows: int) -> int:
        """The first row of the array, which is put at the end unless it is there."""
        if id(array) not in self._first_row:
            self._first_row[id(array)] = self._rows
            self._rows += rows
            self.arrays.append(array)
        return self._first_row[id(array)]


def _media(samples: Sequence[Encoded]) -> MediaBatch:
    pictures, sounds = _Distinct(), _Distinct()
    video_order: list[int] = []
    for frames in (frames for sample in samples for frames in sample.frames_nhwc):
        first = pictures.add(frames, len(frames))
        video_order += range(first, first + len(frames))
    image_order = [pictures.add(image, 1) for sample in samples for image in sample.images_nhwc]
    audio_order = [sounds.add(sound, 1) for sample in samples for sound in sample.sounds]
    return MediaBatch(
        pixels=_pixels([array if array.ndim == 4 else array[None] for array in pictures.arrays]),
        video_order=torch.tensor(video_order, dtype=torch.long),
        image_order=torch.tensor(image_order, dtype=torch.long),
        sounds=tuple(torch.from_numpy(_normalised(sound)) for sound in sounds.arrays),
        audio_order=tuple(audio_order),
    )


def _pixels(frames_nhwc: list[np.ndarray]) -> Tensor | None:
    """Bytes `[n, size, size, 3]` to `[n, 3, size, size]` in -1 to 1."""
    if not frames_nhwc:
        return None
    pixels = torch.from_numpy(np.concatenate(frames_nhwc)).permute(0, 3, 1, 2)
    return pixels.float().div(127.5).sub(1.0)
