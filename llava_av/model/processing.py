"""Processor: from conversations and media to tensors; all token counts are known before the model runs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer, AutoVideoProcessor, PreTrainedTokenizerBase

from llava_av.media.clip import Clip, MediaSizes, SampleSize
from llava_av.media.resizing import ImageResizing
from llava_av.model.audio.front_end import AudioArray
from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.files.reading import read_pretrained
from llava_av.model.media_collation import MediaCollator
from llava_av.model.modeling import IGNORE
from llava_av.model.processing_call import CallableProcessor
from llava_av.model.sequence.chat_template import MEDIA_TAGS, ChatTemplate
from llava_av.model.sequence.clip_tokens import ClipTokens
from llava_av.model.sequence.expansion import (
    ExpandedChat,
    expand_conversation,
    require_supported,
    supported_media,
)
from llava_av.model.sequence.token_counts import TokenCounts
from llava_av.model.sequence.truncation import truncate_clip

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["Encoded", "LlavaAvProcessor"]


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One sample, ready to be collated."""

    input_ids: list[int]
    labels: list[int]
    """As long as `input_ids`; `IGNORE` outside the assistant's turns."""
    frames_nhwc: list[np.ndarray]
    """Frames of each video that has frames."""
    images_nhwc: list[np.ndarray]
    audios: list[AudioArray]
    """Audio, including that of videos, in the order of its tokens in the sequence."""


class LlavaAvProcessor(CallableProcessor):
    """Expands placeholders, tokenises, labels and collates.

    `encode` and `collate` turn decoded clips into batches with labels. Called as transformers' processors
    are, with `text`, `images`, `videos` and `audio`, it returns the arguments of the model's `forward`.

    Args:
        tokenizer: Tokenizer with a chat template.
        config: Config of the model.
        image_processor: Image processor of transformers; None for a model without vision.
        video_processor: Video processor of transformers; None for a model without video.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        config: LlavaAvConfig,
        image_processor: Any = None,
        video_processor: Any = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.config = config
        self.token_counts = TokenCounts(config)
        self._tokens = {}
        for modality in MEDIA_TAGS:
            token_id = getattr(config, f"{modality}_token_id")
            if token_id is not None:
                self._tokens[modality] = str(tokenizer.convert_ids_to_tokens(token_id))
                setattr(self, f"{modality}_token", self._tokens[modality])
                setattr(self, f"{modality}_token_id", token_id)
        parts = {"image_processor": image_processor, "video_processor": video_processor}
        if self.token_counts.front_end is not None:
            parts["feature_extractor"] = self.token_counts.front_end.extractor
        # transformers finds out with `hasattr` which media a processor takes
        for name, part in parts.items():
            if part is not None:
                setattr(self, name, part)
        self._template = ChatTemplate(tokenizer, self._tokens) if tokenizer.chat_template else None
        self.chat_template = None if self._template is None else self._template.with_media()
        self._clip_tokens = ClipTokens(config, self.token_counts, self._tokens)
        self._collator = MediaCollator(config, self.token_counts, image_processor, video_processor)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options: Any) -> "LlavaAvProcessor":  # type: ignore[override]
        """Read tokenizer, config and transformers' processors from a model's folder.

        Args:
            folder: Folder that `save_pretrained` wrote.
            options: Arguments for the tokenizer and each processor, such as `padding_side` or
                `image_mean`, as in transformers; `subfolder` is read instead of the folder itself.

        Raises:
            ModelFilesError: A file cannot be read.
        """
        folder = Path(folder) / options.pop("subfolder", "")
        config = read_pretrained(LlavaAvConfig, folder)
        tokenizer = read_pretrained(AutoTokenizer, folder, **options)
        settings = Path(folder) / "processor_config.json"
        saved = json.loads(settings.read_text()) if settings.is_file() else {}
        loaders: dict[str, type] = {
            "image_processor": AutoImageProcessor,
            "video_processor": AutoVideoProcessor,
        }
        parts = {
            name: read_pretrained(loader, folder, **options)
            for name, loader in loaders.items()
            if name in saved
        }
        return cls(tokenizer, config, **parts)

    def save_pretrained(self, folder: str | Path, **options: Any) -> None:  # type: ignore[override]
        """Write tokenizer and processors, and the config unless the model has written it."""
        self.tokenizer.save_pretrained(folder)
        saved: dict[str, JsonValue] = {"processor_class": type(self).__name__}
        for name in ("image_processor", "video_processor"):
            if hasattr(self, name):
                saved[name] = json.loads(getattr(self, name).to_json_string())
        (Path(folder) / "processor_config.json").write_text(json.dumps(saved, indent=2, sort_keys=True))
        if not (Path(folder) / "config.json").exists():
            self.config.save_pretrained(folder)

    def encode(
        self, turns: Sequence[tuple[str, str]], clip: Clip, *, reply: bool = False, last_only: bool = False
    ) -> Encoded:
        """Encode one conversation.

        Args:
            turns: (`human` or `gpt`, text) in order; `<video>`, `<audio>` and `<image>` in a human's text
                mark the clip's media in order, media without a placeholder come first.
            clip: Decoded media. A model without audio uses only the frames of videos, a model without vision
                only their audio.
            reply: True to end with the opening of an assistant's turn, for `generate` to continue.
            last_only: True to label only the last turn instead of every turn of the assistant.

        Raises:
            ValueError: There are more placeholders than media; the model cannot take any part of a medium;
                audio is too short for a token or not finite; or the sample has more tokens than the config's
                rule can fit; names both numbers.
        """
        if not turns:
            raise ValueError("a conversation of 0 turns cannot be encoded: give at least 1")
        require_supported(clip, self.config)
        clip = self.supported_media(clip)
        self._require_arrays(clip)
        if self.config.max_tokens is not None:
            front_end = self.token_counts.front_end
            clip = truncate_clip(
                clip,
                lambda shorter: len(self._tokenise(self._expand(turns, shorter, reply=reply))[0]),
                limit=self.config.max_tokens,
                rule=self.config.over_limit,
                min_samples=front_end.field if front_end else 0,
            )
        expanded = self._expand(turns, clip, reply=reply)
        spans = expanded.spans
        if last_only:
            spans = spans[-1:] if turns[-1][0] == "gpt" else ()
        input_ids, is_labelled = self._tokenise(expanded, spans)
        return Encoded(
            input_ids=input_ids,
            labels=[
                token if labelled else IGNORE for token, labelled in zip(input_ids, is_labelled, strict=True)
            ],
            frames_nhwc=[video.frames_nhwc for video in clip.videos if len(video.frames_nhwc)],
            images_nhwc=list(clip.images_nhwc),
            audios=list(expanded.audios),
        )

    def supported_media(self, clip: Clip) -> Clip:
        """Return the clip whose videos have only the modalities that the model takes."""
        return supported_media(clip, self.config)

    def image_resizing(self) -> ImageResizing:
        """Return how the reader resizes images and frames for this model."""
        return self._collator.image_resizing()

    def measure(self, turns: Sequence[tuple[str, str]], media: Clip | MediaSizes) -> SampleSize:
        """Return the size of the encoded sample; from sizes before anything is decoded.

        Args:
            turns: See `encode`.
            media: Decoded media or their sizes.

        Raises:
            ValueError: See `encode`.
        """
        encoded = self.encode(turns, media.blank() if isinstance(media, MediaSizes) else media)
        images, counts = encoded.images_nhwc, self.token_counts
        alone = len(images) == 1
        return SampleSize(
            tokens=len(encoded.input_ids),
            frames=tuple(map(len, encoded.frames_nhwc)),
            image_tiles=sum(counts.image_tiles(image.shape[:2], alone=alone) for image in images),
            audios=tuple(map(len, encoded.audios)),
        )

    def without_label(self) -> Encoded:
        """Return the shortest sample that has no loss, for a process that has no other."""
        return Encoded(
            input_ids=[self._padding()], labels=[IGNORE], frames_nhwc=[], images_nhwc=[], audios=[]
        )

    def collate(self, samples: Sequence[Encoded], *, left: bool = False) -> dict[str, Tensor]:
        """Collate samples to one padded batch.

        Args:
            samples: Encoded samples.
            left: True to pad on the left, for generation.

        Returns:
            Arguments of the model's `forward`: `input_ids`, `attention_mask` and `labels` `[batch, length]`,
            and the media, which include arrays that several samples share once.
        """
        if not samples:
            raise ValueError("a batch of 0 samples cannot be collated: give at least 1")
        length = max(len(sample.input_ids) for sample in samples)
        return {
            "input_ids": _padded([sample.input_ids for sample in samples], length, self._padding(), left),
            "attention_mask": _padded([[1] * len(sample.input_ids) for sample in samples], length, 0, left),
            "labels": _padded([sample.labels for sample in samples], length, IGNORE, left),
            **self._collate_media(samples),
        }

    def collate_packed(
        self, rows: Sequence[Sequence[Encoded]], *, length: int | None = None
    ) -> dict[str, Tensor]:
        """Collate several samples into each row.

        Args:
            rows: Samples of each row.
            length: Length that all rows are padded to, at least that of the longest row; None: the latter.

        Returns:
            Arguments of the model's `forward`: `input_ids`, `labels` and `sample_of` `[rows, length]`, and
            the media. Samples are numbered row by row.
        """
        samples = [sample for row in rows for sample in row]
        ids = [[token for sample in row for token in sample.input_ids] for row in rows]
        # nothing precedes the first token of a sample, so it has no label
        labels = [[label for sample in row for label in (IGNORE, *sample.labels[1:])] for row in rows]
        numbers = count()
        owners = [[n for sample in row for n in repeat(next(numbers), len(sample.input_ids))] for row in rows]
        longest = max(map(len, ids))
        length = longest if length is None else length
        return {
            "input_ids": _padded(ids, length, self._padding(), False),
            "labels": _padded(labels, length, IGNORE, False),
            "sample_of": _padded(owners, length, -1, False),
            **self._collate_media(samples),
        }

    def _require_arrays(self, clip: Clip) -> None:
        """Check the arrays of a clip before their tokens are counted."""
        for image in clip.images_nhwc:
            if image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise ValueError(f"an image has shape {image.shape}, must be [height, width, 3]")
        front_end = self.token_counts.front_end
        if front_end is not None:
            of_videos = [video.audio for video in clip.videos if video.audio is not None]
            for audio in [*clip.audios, *of_videos]:
                front_end.check(audio, self.config.sample_rate_hz)

    def _padding(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    def _collate_media(self, samples: Sequence[Encoded]) -> dict[str, Tensor]:
        media = self._collator.collate(
            [sample.frames_nhwc for sample in samples],
            [sample.images_nhwc for sample in samples],
            [sample.audios for sample in samples],
        )
        return media.to_arguments()

    def _expand(self, turns: Sequence[tuple[str, str]], clip: Clip, *, reply: bool) -> ExpandedChat:
        if self._template is None:
            raise ValueError("the tokenizer has no chat template: set tokenizer.chat_template")
        return expand_conversation(
            turns,
            clip,
            tokens=self._tokens,
            template=self._template,
            clip_tokens=self._clip_tokens,
            reply=reply,
        )

    def _tokenise(
        self, expanded: ExpandedChat, spans: Sequence[tuple[int, int]] = ()
    ) -> tuple[list[int], list[bool]]:
        """Return token IDs, and which of them lie in the spans."""
        tokenised = self.tokenizer(expanded.text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = list(tokenised["input_ids"]), tokenised["offset_mapping"]
        labelled = [False] * len(ids)
        place = 0
        for start, stop in spans:
            while place < len(ids) and offsets[place][1] <= start:
                place += 1
            while place < len(ids) and offsets[place][0] < stop:
                labelled[place] = True
                place += 1
        bos = self.tokenizer.bos_token_id
        adds_bos = bos is not None and self.tokenizer("")["input_ids"][:1] == [bos]
        if adds_bos and ids[:1] != [bos]:
            return [bos, *ids], [False, *labelled]
        return ids, labelled


def _padded(rows: Sequence[Sequence[int]], length: int, value: int, left: bool) -> Tensor:
    padding = [[value] * (length - len(row)) for row in rows]
    return torch.tensor(
        [pad + list(row) if left else list(row) + pad for row, pad in zip(rows, padding, strict=True)]
    )
