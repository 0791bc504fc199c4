"""Processor calls as in transformers: text with placeholders, together with media of each modality.

Decoders are imported only if a call gets files.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from transformers.processing_utils import ProcessorMixin
from transformers.video_utils import VideoMetadata, make_batched_videos

from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.media_collation import MediaCollator, pack_prepared_audio
from llava_av.model.sequence.clip_tokens import ClipTokens
from llava_av.model.sequence.token_counts import TokenCounts

if TYPE_CHECKING:
    from transformers.processing_utils import OmniModalProcessorMixin
else:
    try:
        from transformers.processing_utils import OmniModalProcessorMixin
    except ImportError:
        # transformers 5.17 lacks it: calls with the audio of videos need a later version, training does not.
        OmniModalProcessorMixin = ProcessorMixin

__all__ = ["CallableProcessor"]


class _Message(TypedDict, total=False):
    """Message of a conversation as transformers takes it."""

    content: str | list[dict[str, object]] | None
    """Text, or parts with a `type` each."""


class CallableProcessor(OmniModalProcessorMixin):
    """Methods that transformers needs for `__call__` and `apply_chat_template`.

    The audio of a video is an entry of `audio`, and `audio_from_video_indices` gives the owner of each entry:
    the number of a video, or None for an audio file. The audio of a video has no placeholder: its tokens
    alternate with the video's according to `chunk_s` and `timestamps` of the config.
    """

    config: LlavaAvConfig
    token_counts: TokenCounts
    _tokens: Mapping[str, str]
    _clip_tokens: ClipTokens
    _collator: MediaCollator

    def __call__(
        self,
        images: Any = None,
        text: Any = None,
        videos: Any = None,
        audio: Any = None,
        audio_from_video_indices: Sequence[int | None] | None = None,
        frame_times_s: Sequence[Sequence[float] | None] | None = None,
        **options: Any,
    ) -> Any:
        """Process text and media as transformers' processors do.

        Args:
            images: `[height, width, 3]` each.
            text: One or more texts, with a placeholder for each image, video and audio file.
            videos: `[frames, height, width, 3]` each, or paths of files, which are sampled as in training.
            audio: `[samples]` each.
            audio_from_video_indices: Number of the video (0: the first) for each entry of `audio`, or
                None; without it no video has audio.
            frame_times_s: Time in seconds of each frame of each video that is not a file. Without it the
                times follow from `video_metadata` as in transformers, or else from the config's
                `frames_per_s`.
            options: Arguments for transformers; `load_audio_from_video=True` reads the audio of video files.

        Raises:
            ValueError: The numbers of placeholders and media, audio and videos, or times and frames differ;
                the model lacks a modality; or a row has more tokens than the config's `max_tokens`,
                regardless of `over_limit`: only `encode` can shorten a clip. The message gives both numbers.
        """
        given_videos = [] if videos is None else make_batched_videos(videos)
        if options.pop("load_audio_from_video", False) and audio_from_video_indices is None:
            if audio is not None:
                raise ValueError(
                    f"load_audio_from_video with {len(audio)} entries of audio requires "
                    "audio_from_video_indices: add the owner of each entry"
                )
            audio, audio_from_video_indices = self._tracks(given_videos)
        if audio_from_video_indices is not None:
            _require_pairs(audio_from_video_indices, len(audio or ()), len(given_videos))
            audio = audio or None
        if frame_times_s is not None or any(isinstance(video, str | Path) for video in given_videos):
            videos, options["video_metadata"] = self._with_times(given_videos, frame_times_s)
        pairs = None if audio is None else audio_from_video_indices
        inputs = super().__call__(
            images,
            text,
            videos,
            audio,
            audio_from_video_indices=None if pairs is None else list(pairs),
            load_audio_from_video=pairs is not None,
            **options,
        )
        if text is not None:
            self._require_fit(inputs)
        if pairs is not None and text is not None:
            texts = [text] if isinstance(text, str) else text
            inputs["audio_order"] = torch.tensor(list(self._audio_order(texts, pairs)))
        return inputs

    @classmethod
    def get_attributes(cls) -> list[str]:
        """Return the names of the processor's parts for transformers."""
        return ["tokenizer", "image_processor", "video_processor", "feature_extractor"]

    def __repr__(self) -> str:
        """Show the processor's parts; transformers' own method fails for parts that a model lacks."""
        parts = [name for name in self.get_attributes() if hasattr(self, name)]
        return "\n".join(
            [f"{type(self).__name__}:", *(f"- {name}: {getattr(self, name)!r}" for name in parts)]
        )

    def validate_inputs(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **options: Any
    ) -> None:
        """Validate as in transformers, and reject modalities that the model lacks."""
        for modality, given in (("image", images), ("video", videos), ("audio", audio)):
            if given is not None and modality not in self._tokens:
                taken = ", ".join(self._tokens) or "text only"
                raise ValueError(f"{modality} input does not fit the model, which accepts {taken}")
        super().validate_inputs(images=images, text=text, videos=videos, audio=audio, **options)

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **options: Any) -> str:
        """Return the tokens of one image, for transformers' `__call__`."""
        sizes, per_row = image_inputs.get("image_sizes"), image_inputs.get("batch_num_images")
        size = (0, 0) if sizes is None else tuple(int(side) for side in sizes[image_idx])
        rows = [1] if per_row is None else [int(n) for n in per_row for _ in range(int(n))]
        return self._clip_tokens.image((size[0], size[1]), alone=per_row is None or rows[image_idx] == 1)

    def replace_video_token(  # type: ignore[override]
        self,
        video_inputs: dict[str, Any],
        video_idx: int,
        processed_audio: Any = None,
        video_to_audio_indices: Sequence[int | None] | None = None,
        **options: Any,
    ) -> str:
        """Return the tokens of one video with its audio, for transformers' `__call__`."""
        audio = None if video_to_audio_indices is None else video_to_audio_indices[video_idx]
        frames = len(video_inputs["pixel_values_videos"][video_idx])
        return self._clip_tokens.video(
            frames,
            self._frame_times(video_inputs["video_metadata"][video_idx], frames),
            None if audio is None else int(processed_audio["audio_lengths"][audio]),
        )

    def _require_fit(self, inputs: Mapping[str, Sequence[Sequence[int]]]) -> None:
        """Check that no row has more tokens than the config allows; padding does not count."""
        limit = self.config.max_tokens
        if limit is None:
            return
        counts = [int(sum(row)) for row in inputs.get("attention_mask", ())]
        counts = counts or [len(row) for row in inputs["input_ids"]]
        for place, tokens in enumerate(counts, 1):
            if tokens > limit:
                raise ValueError(
                    f"row {place} of {len(counts)} has {tokens} tokens, must be ≤ max_tokens={limit}: give "
                    "fewer frames or shorter audio, or use processor.encode, which applies "
                    f"over_limit={self.config.over_limit!r}"
                )

    def _process_audio(self, audio: Any, **options: Any) -> tuple[dict[str, Tensor], list[str]]:
        front_end = self.token_counts.front_end
        assert front_end is not None, "inputs are validated first"
        rate_hz = options.get("sampling_rate") or front_end.sample_rate_hz
        arrays = [np.asarray(one, dtype=np.float32) for one in audio]
        values = pack_prepared_audio([front_end.prepare(array, rate_hz) for array in arrays])
        lengths = [len(array) for array in arrays]
        tokens = [self._clip_tokens.audio(length) for length in lengths]
        return {"audio_values": values, "audio_lengths": torch.tensor(lengths)}, tokens

    def _process_videos(  # type: ignore[override]
        self, videos: Any, **options: Any
    ) -> tuple[Any, list[str]]:
        # As tensors, transformers accepts only videos of equal length.
        own = {"return_metadata": True, "return_tensors": None}
        options["videos_kwargs"] = options.get("videos_kwargs", {}) | own
        processed, tokens = super()._process_videos(videos, **options)
        frames = [torch.as_tensor(video) for video in processed["pixel_values_videos"]]
        counts = [len(video) for video in frames]
        if 0 in counts:
            raise ValueError(f"video {counts.index(0) + 1} of {len(counts)} has 0 frames: give at least 1")
        if len(set(counts)) == 1:
            processed["pixel_values_videos"] = torch.stack(frames)
        else:
            processed["pixel_values_videos"] = torch.cat(frames)
            processed["video_frames"] = torch.tensor(counts)
        return processed, tokens

    def _multimodal_inputs_from_conversations(
        self,
        conversations: list[Any],
        audio_loading_params: dict[str, object],
        load_audio_from_video: bool = False,
    ) -> tuple[list[Any], list[Any], list[Any], dict[str, object]]:
        """Collect the media of messages; a part of type `video` may have `audio` and `frame_times_s`."""
        images, videos, audios, more = ProcessorMixin._multimodal_inputs_from_conversations(
            self, conversations, audio_loading_params
        )
        owners: list[int | None] = [None] * len(audios)
        video_parts = [part for part in _parts(conversations) if part["type"] == "video"]
        for number, part in enumerate(video_parts):
            audio: Any = part.get("audio")
            if audio is None and load_audio_from_video:
                file = next((part[key] for key in ("video", "url", "path") if key in part), None)
                audio = self._track(file, number, len(video_parts))
            if audio is not None:
                audios.append(self._read(audio) if isinstance(audio, str | Path) else audio)
                owners.append(number)
        if any(owner is not None for owner in owners):
            more["audio_from_video_indices"] = owners
        if any("frame_times_s" in part for part in video_parts):
            more["frame_times_s"] = [part.get("frame_times_s") for part in video_parts]
        return images, videos, audios, more

    def _frame_times(self, metadata: VideoMetadata, frames: int) -> list[float]:
        if metadata.fps is None:
            return self._even_times(frames)
        times_s: list[float] = metadata.timestamps
        return times_s

    def _with_times(
        self, videos: Sequence[Any], times_s: Sequence[Sequence[float] | None] | None
    ) -> tuple[list[Any], list[dict[str, float | list[float]]]]:
        """Return the frames of each video and their times; decode files according to the config."""
        times_s = [None] * len(videos) if times_s is None else times_s
        if len(times_s) != len(videos):
            raise ValueError(f"frame_times_s has times of {len(times_s)} videos, but there are {len(videos)}")
        frames, metadata = [], []
        for video, times in zip(videos, times_s, strict=True):
            if isinstance(video, str | Path):
                video, times = self._sampled(video)
            frames.append(video)
            metadata.append(_metadata_at(self._even_times(len(video)) if times is None else times))
        return frames, metadata

    def _sampled(self, path: str | Path) -> tuple[np.ndarray, list[float]]:
        """Return the frames of a file and their times, according to the config."""
        from llava_av.media.container import probe
        from llava_av.media.decode import frame_times, read_frames

        media, resize = self.config, self._collator.image_resizing().resize_frame
        times = frame_times(
            probe(path).duration_s, frames_per_s=media.frames_per_s, max_frames=media.max_frames
        )
        return read_frames(path, times, size=media.frame_size, resize=resize), times

    def _even_times(self, frames: int) -> list[float]:
        return [(index + 0.5) / self.config.frames_per_s for index in range(frames)]

    def _tracks(self, videos: Sequence[Any]) -> tuple[list[np.ndarray], list[int]]:
        """Return the audio of the files that have audio, and the numbers of these files."""
        tracks = [self._track(video, number, len(videos)) for number, video in enumerate(videos)]
        owners = [number for number, track in enumerate(tracks) if track is not None]
        return [track for track in tracks if track is not None], owners

    def _track(self, video: Any, number: int, videos: int) -> np.ndarray | None:
        """Return the audio of a file; None if it has none."""
        if not isinstance(video, str | Path):
            raise ValueError(
                f"load_audio_from_video needs files, but video {number + 1} of {videos} is an array: pass "
                "its audio in audio and audio_from_video_indices"
            )
        from llava_av.media.container import probe

        return self._read(video) if probe(video).has_audio else None

    def _read(self, path: str | Path) -> np.ndarray:
        from llava_av.media.decode import read_audio

        return read_audio(path, sample_rate_hz=self.config.sample_rate_hz, max_s=self.config.max_audio_s)

    def _audio_order(self, texts: Sequence[str], owners: Sequence[int | None]) -> Iterator[int]:
        """Yield the entries of `audio` in the order of their tokens."""
        of_video = {owner: entry for entry, owner in enumerate(owners) if owner is not None}
        alone = iter([entry for entry, owner in enumerate(owners) if owner is None])
        modalities = {self._tokens[name]: name for name in ("video", "audio") if name in self._tokens}
        videos = 0
        for match in re.finditer("|".join(map(re.escape, modalities)), "\n".join(texts)):
            if modalities[match[0]] == "audio":
                yield next(alone)
                continue
            if videos in of_video:
                yield of_video[videos]
            videos += 1


def _metadata_at(times_s: Sequence[float]) -> dict[str, float | list[float]]:
    """Return times as transformers' metadata: frame indices of a video of one frame per second."""
    return {"total_num_frames": len(times_s), "fps": 1.0, "frames_indices": list(times_s)}


def _require_pairs(owners: Sequence[int | None], audios: int, videos: int) -> None:
    if len(owners) != audios:
        raise ValueError(
            f"audio_from_video_indices has {len(owners)} owners, but audio has {audios} entries: give "
            "one for each"
        )
    named = [owner for owner in owners if owner is not None]
    for owner in named:
        if not 0 <= owner < videos:
            raise ValueError(f"audio_from_video_indices names video {owner}, but there are {videos} videos")
        if named.count(owner) > 1:
            raise ValueError(
                f"audio_from_video_indices names video {owner} {named.count(owner)} times: name it once"
            )


def _parts(conversations: Sequence[Sequence[_Message]]) -> list[dict[str, object]]:
    messages = [message for conversation in conversations for message in conversation]
    contents = [message.get("content") or [] for message in messages]
    return [part for content in contents if not isinstance(content, str) for part in content]
