"""From conversations and media to tensors; every token count is known before the model runs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer, AutoVideoProcessor, PreTrainedTokenizerBase

from llava_av.media.clip import Clip, MediaSizes
from llava_av.media.image import ImageResizing
from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.loading.weight_files import pretrained
from llava_av.model.media_batch import MediaBatcher
from llava_av.model.modeling import IGNORE
from llava_av.model.processing_call import CalledProcessor
from llava_av.model.sequence.chat_template import MARKS, ChatTemplate
from llava_av.model.sequence.conversations import expanded, require_perceptible, supported_media
from llava_av.model.sequence.layout import MediaLayout
from llava_av.model.sequence.limits import fitted
from llava_av.model.sequence.media_runs import MediaRuns

__all__ = ["Encoded", "LlavaAvProcessor"]


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One sample, ready to be collated."""

    input_ids: list[int]
    labels: list[int]
    """As long as `input_ids`; `IGNORE` outside the assistant's turns."""
    frames_nhwc: list[np.ndarray]
    """Frames of each video that has some."""
    images_nhwc: list[np.ndarray]
    audios: list[np.ndarray]
    """In the order in which their tokens stand in the sequence."""


class LlavaAvProcessor(CalledProcessor):
    """Expands placeholders, tokenises, marks labels and makes batches.

    Called as processors of transformers are, with `text`, `images`, `videos` and `audio`, it gives what the
    model's `forward` takes. `encode` and `collate` do the same from decoded clips, with labels.

    Args:
        tokenizer: with a chat template.
        config: the model's.
        image_processor: transformers' for images; None without a vision part.
        video_processor: transformers' for videos; None for a model that takes none.
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
        self.layout = MediaLayout(config)
        self._tokens = {}
        for kind in MARKS:
            token_id = getattr(config, f"{kind}_token_id")
            if token_id is not None:
                self._tokens[kind] = str(tokenizer.convert_ids_to_tokens(token_id))
                setattr(self, f"{kind}_token", self._tokens[kind])
                setattr(self, f"{kind}_token_id", token_id)
        parts = {"image_processor": image_processor, "video_processor": video_processor}
        if self.layout.front_end is not None:
            parts["feature_extractor"] = self.layout.front_end.extractor
        # transformers asks with `hasattr` what a processor can take
        for name, part in parts.items():
            if part is not None:
                setattr(self, name, part)
        self._template = ChatTemplate(tokenizer, self._tokens) if tokenizer.chat_template else None
        self.chat_template = None if self._template is None else self._template.for_media()
        self._runs = MediaRuns(config, self.layout, self._tokens)
        self._batcher = MediaBatcher(config, self.layout, image_processor, video_processor)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options: Any) -> "LlavaAvProcessor":  # type: ignore[override]
        """Reads tokenizer, config and transformers' processors from a model's folder.

        Args:
            folder: as `save_pretrained` writes it.
            options: for the tokenizer and each processor, such as `padding_side` or `image_mean`, as in
                transformers; with `subfolder` all is read from there.
        """
        folder = Path(folder) / options.pop("subfolder", "")
        config = pretrained(LlavaAvConfig, folder)
        tokenizer = pretrained(AutoTokenizer, folder, **options)
        settings = Path(folder) / "processor_config.json"
        saved = json.loads(settings.read_text()) if settings.is_file() else {}
        loaders: dict[str, Any] = {
            "image_processor": AutoImageProcessor,
            "video_processor": AutoVideoProcessor,
        }
        parts = {
            name: pretrained(loader, folder, **options) for name, loader in loaders.items() if name in saved
        }
        return cls(tokenizer, config, **parts)

    def save_pretrained(self, folder: str | Path, **options: Any) -> None:  # type: ignore[override]
        """Writes tokenizer and processors, and the config unless the model's is there."""
        self.tokenizer.save_pretrained(folder)
        saved: dict[str, Any] = {"processor_class": type(self).__name__}
        for name in ("image_processor", "video_processor"):
            if hasattr(self, name):
                saved[name] = json.loads(getattr(self, name).to_json_string())
        (Path(folder) / "processor_config.json").write_text(json.dumps(saved, indent=2, sort_keys=True))
        if not (Path(folder) / "config.json").exists():
            self.config.save_pretrained(folder)

    def encode(
        self, turns: Sequence[tuple[str, str]], clip: Clip, *, reply: bool = False, last_only: bool = False
    ) -> Encoded:
        """Encodes one conversation.

        Args:
            turns: (`human` or `gpt`, text) in order; `<video>`, `<audio>` and `<image>` in a human's text
                stand for the clip's media in order, media without a placeholder come first of all.
            clip: the decoded media. A model without an audio part sees videos without their sound, one
                without a vision part hears them without their frames.
            reply: end with the opening of an assistant's turn, to be continued by `generate`.
            last_only: label the last turn only, not every turn of the assistant.

        Raises:
            ValueError: more placeholders than media, media of a kind that the model does not take, a video of
                which it perceives nothing, sound that is too short for a token or not finite, or more tokens
                than the config's rule can make fit; with both counts.
        """
        if not turns:
            raise ValueError("a conversation of 0 turns; at least 1 is needed")
        require_perceptible(clip, self.config)
        clip = self.supported_media(clip)
        self._require_arrays(clip)
        if self.config.max_tokens is not None:
            clip = fitted(
                clip,
                lambda one: len(self._encode(turns, one, reply=reply)[0]),
                limit=self.config.max_tokens,
                rule=self.config.over_limit,
                least_samples=self.layout.front_end.field if self.layout.front_end else 0,
            )
        input_ids, labelled, sounds = self._encode(turns, clip, reply=reply, last_only=last_only)
        return Encoded(
            input_ids=input_ids,
            labels=[token if own else IGNORE for token, own in zip(input_ids, labelled, strict=True)],
            frames_nhwc=[video.frames_nhwc for video in clip.videos if len(video.frames_nhwc)],
            images_nhwc=list(clip.images_nhwc),
            audios=list(sounds),
        )

    def supported_media(self, clip: Clip) -> Clip:
        """The clip without those streams of its videos for which the model has no part."""
        return supported_media(clip, self.config)

    def image_resizing(self) -> ImageResizing:
        """Which size the pictures of files get for this model."""
        return self._batcher.image_resizing()

    def count_tokens(self, turns: Sequence[tuple[str, str]], media: Clip | MediaSizes) -> int:
        """Length of the encoded sample before any tower has run, and from sizes before anything is decoded.

        Args:
            turns: as for `encode`.
            media: decoded, or their sizes.

        Raises:
            ValueError: as `encode`.
        """
        clip = media.blank() if isinstance(media, MediaSizes) else media
        return len(self.encode(turns, clip).input_ids)

    def collate(self, samples: Sequence[Encoded], *, left: bool = False) -> dict[str, Any]:
        """Pads to one batch.

        Args:
            samples: encoded samples.
            left: pad on the left, as generation needs.

        Returns:
            Arguments of the model's `forward`, all tensors: `input_ids`, `attention_mask` and `labels`
            `[batch, length]`, and the media, in which arrays that several samples share are there once.
        """
        if not samples:
            raise ValueError("a batch of 0 samples; at least 1 is needed")
        length = max(len(sample.input_ids) for sample in samples)
        return {
            "input_ids": _padded([sample.input_ids for sample in samples], length, self._padding(), left),
            "attention_mask": _padded([[1] * len(sample.input_ids) for sample in samples], length, 0, left),
            "labels": _padded([sample.labels for sample in samples], length, IGNORE, left),
            **self._media(samples),
        }

    def collate_packed(self, rows: Sequence[Sequence[Encoded]]) -> dict[str, Any]:
        """Puts several samples into each row.

        Args:
            rows: the samples of each row.

        Returns:
            Arguments of the model's `forward`, all tensors: `input_ids`, `labels` and `sample_of`
            `[rows, length]`, and the media. Samples are numbered row by row.
        """
        samples = [sample for row in rows for sample in row]
        ids = [[token for sample in row for token in sample.input_ids] for row in rows]
        # the first token of a sample follows from nothing, least of all from the sample before
        labels = [[label for sample in row for label in (IGNORE, *sample.labels[1:])] for row in rows]
        numbers = count()
        owners = [[n for sample in row for n in repeat(next(numbers), len(sample.input_ids))] for row in rows]
        length = max(map(len, ids))
        return {
            "input_ids": _padded(ids, length, self._padding(), False),
            "labels": _padded(labels, length, IGNORE, False),
            "sample_of": _padded(owners, length, -1, False),
            **self._media(samples),
        }

    def _require_arrays(self, clip: Clip) -> None:
        """Refuses what no tower takes before it is counted."""
        for image in clip.images_nhwc:
            if image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise ValueError(f"an image of shape {image.shape}, not [height, width, 3]")
        end = self.layout.front_end
        if end is not None:
            for sound in [*clip.audios, *(video.audio for video in clip.videos if video.audio is not None)]:
                end.check(sound, self.config.sample_rate_hz)

    def _padding(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    def _media(self, samples: Sequence[Encoded]) -> dict[str, Tensor]:
        return self._batcher.media(
            [sample.frames_nhwc for sample in samples],
            [sample.images_nhwc for sample in samples],
            [sample.audios for sample in samples],
        )

    def _encode(
        self, turns: Sequence[tuple[str, str]], clip: Clip, *, reply: bool, last_only: bool = False
    ) -> tuple[list[int], list[bool], tuple[np.ndarray, ...]]:
        """Token ids, which of them are the assistant's to say, and sounds in the order of their tokens."""
        if self._template is None:
            raise ValueError("the tokenizer has no chat template: set tokenizer.chat_template")
        whole = expanded(
            turns, clip, tokens=self._tokens, template=self._template, runs=self._runs, reply=reply
        )
        spans = whole.spans
        if last_only:
            spans = spans[-1:] if turns[-1][0] == "gpt" else ()
        return *self._tokenised(whole.text, spans), whole.audios

    def _tokenised(self, text: str, spans: Sequence[tuple[int, int]]) -> tuple[list[int], list[bool]]:
        tokenised = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
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
        adds = bos is not None and self.tokenizer("")["input_ids"][:1] == [bos]
        if adds and ids[:1] != [bos]:
            return [bos, *ids], [False, *labelled]
        return ids, labelled


def _padded(rows: Sequence[Sequence[int]], length: int, value: int, left: bool) -> Tensor:
    padding = [[value] * (length - len(row)) for row in rows]
    return torch.tensor(
        [pad + list(row) if left else list(row) + pad for row, pad in zip(rows, padding, strict=True)]
    )
