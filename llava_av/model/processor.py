"""From conversations and media to tensors; every token count is known before the model runs."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer, AutoVideoProcessor, PreTrainedTokenizerBase
from transformers.processing_utils import ProcessorMixin

from llava_av.media.clip import Clip, Video
from llava_av.model.batches import MediaBatcher, packed_sounds
from llava_av.model.chat_template import MARKS, ChatTemplate, Rendered
from llava_av.model.config import LlavaAvConfig
from llava_av.model.layout import MediaLayout
from llava_av.model.limits import fitted
from llava_av.model.modeling import IGNORE
from llava_av.model.sequence import VIDEO, Run, interleave

__all__ = ["Encoded", "LlavaAvProcessor"]

_ROLES = {"human": "user", "gpt": "assistant"}
# The order in which media that no placeholder names come first.
_UNNAMED = ("video", "audio", "image")


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One sample, ready to be collated."""

    input_ids: list[int]
    labels: list[int]
    """As long as `input_ids`; `IGNORE` outside the assistant's turns."""
    frames_nhwc: list[np.ndarray]
    """Frames of each video that has some."""
    images_nhwc: list[np.ndarray]
    sounds: list[np.ndarray]


class LlavaAvProcessor(ProcessorMixin):
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
        self._tokens: dict[str, str] = {}
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
        self._batcher = MediaBatcher(config, self.layout, image_processor)

    @classmethod
    def get_attributes(cls) -> list[str]:
        """The parts of a processor that transformers looks for."""
        return ["tokenizer", "image_processor", "video_processor", "feature_extractor"]

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options: Any) -> "LlavaAvProcessor":  # type: ignore[override]
        """Reads tokenizer, config and transformers' processors from a model's folder."""
        config = LlavaAvConfig.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        settings = Path(folder) / "processor_config.json"
        saved = json.loads(settings.read_text()) if settings.is_file() else {}
        loaders: dict[str, Any] = {
            "image_processor": AutoImageProcessor,
            "video_processor": AutoVideoProcessor,
        }
        parts = {name: loader.from_pretrained(folder) for name, loader in loaders.items() if name in saved}
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
            clip: the decoded media. A model without an audio part sees videos without their sound.
            reply: end with the opening of an assistant's turn, to be continued by `generate`.
            last_only: label the last turn only, not every turn of the assistant.

        Raises:
            ValueError: more placeholders than media, media of a kind that the model does not take, sound too
                short for a token, or more tokens than the config's rule can make fit; with both counts.
        """
        if self.config.audio_config is None:
            clip = Clip(
                videos=clip.without(video=False, audio=True).videos,
                sounds=clip.sounds,
                images_nhwc=clip.images_nhwc,
            )
        if self.config.max_tokens is not None:
            clip = fitted(
                clip,
                lambda one: len(self._encode(turns, one, reply=reply)[0]),
                limit=self.config.max_tokens,
                rule=self.config.over_limit,
                least_samples=self.layout.front_end.field if self.layout.front_end else 0,
            )
        input_ids, labelled = self._encode(turns, clip, reply=reply, last_only=last_only)
        return Encoded(
            input_ids=input_ids,
            labels=[token if own else IGNORE for token, own in zip(input_ids, labelled, strict=True)],
            frames_nhwc=[video.frames_nhwc for video in clip.videos if len(video.frames_nhwc)],
            images_nhwc=list(clip.images_nhwc),
            sounds=[video.audio for video in clip.videos if video.audio is not None] + list(clip.sounds),
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
            Arguments of the model's `forward`, all tensors: `input_ids`, `attention_mask` and `labels`
            `[batch, length]`, and the media, in which arrays that several samples share are there once.
        """
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

    def _padding(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    def _media(self, samples: Sequence[Encoded]) -> dict[str, Tensor]:
        return self._batcher.media(
            [sample.frames_nhwc for sample in samples],
            [sample.images_nhwc for sample in samples],
            [sample.sounds for sample in samples],
        )

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **options: Any) -> str:
        """What stands for one image; transformers' `__call__` asks for it."""
        sizes, per_row = image_inputs.get("image_sizes"), image_inputs.get("batch_num_images")
        size = (0, 0) if sizes is None else tuple(int(side) for side in sizes[image_idx])
        rows = [1] if per_row is None else [int(n) for n in per_row for _ in range(int(n))]
        alone = per_row is None or rows[image_idx] == 1
        return self._tokens["image"] * self.layout.image_tokens((size[0], size[1]), alone=alone)

    def replace_video_token(self, video_inputs: dict[str, Any], video_idx: int, **options: Any) -> str:
        """What stands for one video; transformers' `__call__` asks for it."""
        frames = len(video_inputs["pixel_values_videos"][video_idx])
        return self._tokens["video"] * self.layout.video_tokens(frames)

    def validate_inputs(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **options: Any
    ) -> None:
        """As in transformers; media that the model has no part for are refused."""
        for kind, given in (("image", images), ("video", videos), ("audio", audio)):
            if given is not None and kind not in self._tokens:
                raise ValueError(
                    f"{kind} input, but the model takes {', '.join(self._tokens) or 'text alone'}"
                )
        super().validate_inputs(images=images, text=text, videos=videos, audio=audio, **options)

    def _process_audio(self, audio: Any, **options: Any) -> tuple[dict[str, Any], list[str]]:
        end = self.layout.front_end
        assert end is not None, "inputs are validated first"
        rate_hz = options.get("sampling_rate") or end.sample_rate_hz
        sounds = [np.asarray(sound, dtype=np.float32) for sound in audio]
        values = packed_sounds([end.prepare(sound, rate_hz) for sound in sounds])
        runs = [self._tokens["audio"] * self.layout.audio_tokens(len(sound)) for sound in sounds]
        return {"audio_values": values, "audio_lengths": torch.tensor([len(sound) for sound in sounds])}, runs

    def _process_videos(self, videos: Any, **options: Any) -> tuple[Any, list[str]]:
        processed, runs = super()._process_videos(videos, **options)
        for place, video in enumerate(processed["pixel_values_videos"]):
            if not len(video):
                raise ValueError(f"video {place + 1} of {len(runs)} has 0 frames; at least 1 is needed")
        return processed, runs

    def _encode(
        self, turns: Sequence[tuple[str, str]], clip: Clip, *, reply: bool, last_only: bool = False
    ) -> tuple[list[int], list[bool]]:
        """Token ids, and which of them are the assistant's to say."""
        if self._template is None:
            raise ValueError("the tokenizer has no chat template: set tokenizer.chat_template")
        texts = self._named([text for _, text in turns], clip)
        speakers = [_ROLES.get(speaker, speaker) for speaker, _ in turns]
        rendered = self._expanded(
            self._template.render(list(zip(speakers, texts, strict=True)), reply=reply), clip
        )
        spans = rendered.spans
        if last_only:
            spans = spans[-1:] if turns[-1][0] == "gpt" else ()
        return self._tokenised(rendered.text, spans)

    def _named(self, texts: list[str], clip: Clip) -> list[str]:
        """Texts with a placeholder for each medium."""
        unnamed = ""
        given = {"video": clip.videos, "audio": clip.sounds, "image": clip.images_nhwc}
        for kind in _UNNAMED:
            named = sum(text.count(MARKS[kind]) for text in texts)
            if named > len(given[kind]):
                raise ValueError(f"{named} <{kind}> placeholders but {len(given[kind])} {kind} files")
            if given[kind] and kind not in self._tokens:
                raise ValueError(
                    f"{len(given[kind])} {kind} files, but the model takes "
                    f"{', '.join(self._tokens) or 'text alone'}"
                )
            unnamed += MARKS[kind] * (len(given[kind]) - named)
        return [unnamed + texts[0], *texts[1:]]

    def _expanded(self, rendered: Rendered, clip: Clip) -> Rendered:
        """Puts runs of placeholder tokens where the media belong."""
        runs: dict[str, Iterator[str]] = {
            "video": map(self._video_run, clip.videos),
            "audio": map(self._sound_run, clip.sounds),
            "image": map(partial(self._image_run, len(clip.images_nhwc) == 1), clip.images_nhwc),
        }
        kinds = {token: kind for kind, token in self._tokens.items()}
        pieces: list[str] = []
        shifts: list[tuple[int, int]] = []
        done = grown = 0
        for match in re.finditer("|".join(map(re.escape, kinds)) or "(?!)", rendered.text):
            run = next(runs[kinds[match[0]]], None)
            if run is None:
                raise ValueError(f"the conversation holds more {match[0]} than there are such media")
            pieces += [rendered.text[done : match.start()], run]
            done = match.end()
            grown += len(run) - len(match[0])
            shifts.append((match.start(), grown))
        lost = [kind for kind, left in runs.items() if next(left, None) is not None]
        if lost:
            raise ValueError(f"the chat template leaves out media of these kinds: {', '.join(lost)}")

        spans = tuple((_moved(shifts, start), _moved(shifts, stop)) for start, stop in rendered.spans)
        return Rendered(text="".join([*pieces, rendered.text[done:]]), spans=spans)

    def _video_run(self, video: Video) -> str:
        sound = video.audio
        frames = len(video.frames_nhwc)
        runs = interleave(
            video.frame_times_s,
            self.layout.frame_runs(frames) if frames else [],
            0 if sound is None else self._sound_tokens(sound),
            0.0 if sound is None else len(sound) / self.config.sample_rate_hz,
            self.config.chunk_s,
            timestamps=self.config.timestamps,
        )
        if frames and self.config.video_newline == "one":
            runs.append(Run(VIDEO, 1))
        return "".join(run.text or self._tokens[run.kind] * run.count for run in runs)

    def _sound_run(self, sound: np.ndarray) -> str:
        return self._tokens["audio"] * self._sound_tokens(sound)

    def _sound_tokens(self, sound: np.ndarray) -> int:
        tokens = self.layout.audio_tokens(len(sound))
        if not tokens:
            needed = self.layout.front_end.field if self.layout.front_end else 0
            raise ValueError(f"a sound of {len(sound)} samples, but a token of sound needs {needed}")
        return tokens

    def _image_run(self, alone: bool, image: np.ndarray) -> str:
        height, width = image.shape[:2]
        return self._tokens["image"] * self.layout.image_tokens((height, width), alone=alone)

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


def _moved(shifts: Sequence[tuple[int, int]], place: int) -> int:
    """Where a character is after the placeholders before it have grown."""
    return place + next((grown for start, grown in reversed(shifts) if start < place), 0)


def _padded(rows: Sequence[Sequence[int]], length: int, value: int, left: bool) -> Tensor:
    padding = [[value] * (length - len(row)) for row in rows]
    return torch.tensor(
        [pad + list(row) if left else list(row) + pad for row, pad in zip(rows, padding, strict=True)]
    )
