"""Calls as transformers makes them: text with placeholders, and media of each kind beside it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.processing_utils import OmniModalProcessorMixin, ProcessorMixin
from transformers.video_utils import make_batched_videos

from llava_av.media.container import probe
from llava_av.media.decode import frame_times, read_audio, read_frames
from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.media_batch import MediaBatcher, packed_sounds
from llava_av.model.sequence.layout import MediaLayout
from llava_av.model.sequence.media_runs import MediaRuns

__all__ = ["CalledProcessor"]


class CalledProcessor(OmniModalProcessorMixin):
    """What transformers' `__call__` and `apply_chat_template` ask a processor with its own tokens for.

    The sound of a video is an entry of `audio`, and `audio_from_video_indices` says of each entry whose it
    is: the number of a video, or None of a sound by itself. A video's sound has no placeholder of its own:
    its tokens stand with the video's, as `chunk_s` and `timestamps` of the config have them.
    """

    config: LlavaAvConfig
    layout: MediaLayout
    _tokens: Mapping[str, str]
    _runs: MediaRuns
    _batcher: MediaBatcher

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
        """As processors of transformers are called.

        Args:
            images: `[height, width, 3]` each.
            text: one text or several, with a placeholder for each image, video and sound by itself.
            videos: `[frames, height, width, 3]` each, or paths of files, which are sampled as in training.
            audio: `[samples]` each.
            audio_from_video_indices: of each entry of `audio`, the number of the video that it belongs to (0:
                the first), or None; without it no video has sound.
            frame_times_s: seconds of each frame of each video that is not a file. Without it they follow from
                `video_metadata` as in transformers; else the frames are taken for those of `frames_per_s`.
            options: of transformers; `load_audio_from_video=True` reads the sound of videos that are files.

        Raises:
            ValueError: placeholders and media, sounds and videos, or times and frames that differ in number,
                with both; media that the model has no part for; or a row of more than the config's
                `max_tokens`, with both, whatever `over_limit` is: `encode` has a clip that it can shorten.
        """
        shown = [] if videos is None else make_batched_videos(videos)
        if options.pop("load_audio_from_video", False) and audio_from_video_indices is None:
            if audio is not None:
                raise ValueError(
                    "load_audio_from_video beside audio needs audio_from_video_indices: whose is each of "
                    f"{len(audio)} sounds?"
                )
            tracks = [self._track(video, number, len(shown)) for number, video in enumerate(shown)]
            audio_from_video_indices = [n for n, track in enumerate(tracks) if track is not None]
            audio = [track for track in tracks if track is not None]
        if audio_from_video_indices is not None:
            _require_pairs(audio_from_video_indices, len(audio or ()), len(shown))
            audio = audio or None
        if frame_times_s is not None or any(isinstance(video, str | Path) for video in shown):
            videos, options["video_metadata"] = self._timed(shown, frame_times_s)
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
            inputs["audio_order"] = torch.tensor(list(self._sound_order(texts, pairs)))
        return inputs

    @classmethod
    def get_attributes(cls) -> list[str]:
        """The parts of a processor that transformers looks for."""
        return ["tokenizer", "image_processor", "video_processor", "feature_extractor"]

    def __repr__(self) -> str:
        """Its parts; transformers' own looks for those that a model lacks, too."""
        parts = [name for name in self.get_attributes() if hasattr(self, name)]
        return "\n".join(
            [f"{type(self).__name__}:", *(f"- {name}: {getattr(self, name)!r}" for name in parts)]
        )

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

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **options: Any) -> str:
        """What stands for one image; transformers' `__call__` asks for it."""
        sizes, per_row = image_inputs.get("image_sizes"), image_inputs.get("batch_num_images")
        size = (0, 0) if sizes is None else tuple(int(side) for side in sizes[image_idx])
        rows = [1] if per_row is None else [int(n) for n in per_row for _ in range(int(n))]
        return self._runs.image((size[0], size[1]), alone=per_row is None or rows[image_idx] == 1)

    def replace_video_token(  # type: ignore[override]
        self,
        video_inputs: dict[str, Any],
        video_idx: int,
        processed_audio: Any = None,
        video_to_audio_indices: Sequence[int | None] | None = None,
        **options: Any,
    ) -> str:
        """What stands for one video with its sound; transformers' `__call__` asks for it."""
        sound = None if video_to_audio_indices is None else video_to_audio_indices[video_idx]
        return self._runs.video(
            len(video_inputs["pixel_values_videos"][video_idx]),
            self._frame_times(video_inputs, video_idx),
            None if sound is None else int(processed_audio["audio_lengths"][sound]),
        )

    def _require_fit(self, inputs: Mapping[str, Any]) -> None:
        """Refuses rows of more tokens than the config allows; padding does not count."""
        limit = self.config.max_tokens
        if limit is None:
            return
        counts = [int(sum(row)) for row in inputs.get("attention_mask", ())]
        counts = counts or [len(row) for row in inputs["input_ids"]]
        for place, tokens in enumerate(counts, 1):
            if tokens > limit:
                raise ValueError(
                    f"row {place} of {len(counts)} has {tokens} tokens, but max_tokens={limit}: give fewer "
                    "frames or shorter sound, or the clip to processor.encode, which does "
                    f"over_limit={self.config.over_limit!r}"
                )

    def _process_audio(self, audio: Any, **options: Any) -> tuple[dict[str, Any], list[str]]:
        end = self.layout.front_end
        assert end is not None, "inputs are validated first"
        rate_hz = options.get("sampling_rate") or end.sample_rate_hz
        sounds = [np.asarray(sound, dtype=np.float32) for sound in audio]
        values = packed_sounds([end.prepare(sound, rate_hz) for sound in sounds])
        runs = [self._runs.sound(len(sound)) for sound in sounds]
        return {"audio_values": values, "audio_lengths": torch.tensor([len(sound) for sound in sounds])}, runs

    def _process_videos(  # type: ignore[override]
        self, videos: Any, **options: Any
    ) -> tuple[Any, list[str]]:
        # its own tensors hold videos of one length alone
        own = {"return_metadata": True, "return_tensors": None}
        options["videos_kwargs"] = options.get("videos_kwargs", {}) | own
        processed, runs = super()._process_videos(videos, **options)
        shown = [torch.as_tensor(video) for video in processed["pixel_values_videos"]]
        counts = [len(video) for video in shown]
        if 0 in counts:
            raise ValueError(
                f"video {counts.index(0) + 1} of {len(counts)} has 0 frames; at least 1 is needed"
            )
        if len(set(counts)) == 1:
            processed["pixel_values_videos"] = torch.stack(shown)
        else:
            processed["pixel_values_videos"] = torch.cat(shown)
            processed["video_frames"] = torch.tensor(counts)
        return processed, runs

    def _multimodal_inputs_from_conversations(
        self,
        conversations: list[Any],
        audio_loading_params: dict[str, Any],
        load_audio_from_video: bool = False,
    ) -> tuple[list[Any], list[Any], list[Any], dict[str, Any]]:
        """Media of messages; a part of type `video` may bring `audio` and `frame_times_s` of its own."""
        images, videos, sounds, more = ProcessorMixin._multimodal_inputs_from_conversations(
            self, conversations, audio_loading_params
        )
        owners: list[int | None] = [None] * len(sounds)
        shown = [part for part in _parts(conversations) if part["type"] == "video"]
        for number, part in enumerate(shown):
            sound: Any = part.get("audio")
            if sound is None and load_audio_from_video:
                file = next((part[key] for key in ("video", "url", "path") if key in part), None)
                sound = self._track(file, number, len(shown))
            if sound is not None:
                sounds.append(self._read(sound) if isinstance(sound, str | Path) else sound)
                owners.append(number)
        if any(owner is not None for owner in owners):
            more["audio_from_video_indices"] = owners
        if any("frame_times_s" in part for part in shown):
            more["frame_times_s"] = [part.get("frame_times_s") for part in shown]
        return images, videos, sounds, more

    def _frame_times(self, video_inputs: dict[str, Any], place: int) -> list[float]:
        metadata = video_inputs["video_metadata"][place]
        if metadata.fps is None:
            return self._even_times(len(video_inputs["pixel_values_videos"][place]))
        times_s: list[float] = metadata.timestamps
        return times_s

    def _timed(
        self, videos: Sequence[Any], times_s: Sequence[Sequence[float] | None] | None
    ) -> tuple[list[Any], list[dict[str, Any]]]:
        """Frames of each video, files decoded as the config says, and when each is shown."""
        times_s = [None] * len(videos) if times_s is None else times_s
        if len(times_s) != len(videos):
            raise ValueError(f"frame_times_s of {len(times_s)} videos, but there are {len(videos)}")
        frames, shown = [], []
        for video, times in zip(videos, times_s, strict=True):
            if isinstance(video, str | Path):
                media = self.config
                times = frame_times(
                    probe(video).duration_s, frames_per_s=media.frames_per_s, max_frames=media.max_frames
                )
                video = read_frames(
                    video, times, size=media.frame_size, resize=self._batcher.image_resizing().resize_frame
                )
            frames.append(video)
            shown.append(_at(self._even_times(len(video)) if times is None else times))
        return frames, shown

    def _even_times(self, frames: int) -> list[float]:
        return [(index + 0.5) / self.config.frames_per_s for index in range(frames)]

    def _track(self, video: Any, number: int, videos: int) -> np.ndarray | None:
        """The sound of a file; None if it has none."""
        if not isinstance(video, str | Path):
            raise ValueError(
                f"load_audio_from_video, but video {number + 1} of {videos} is no file: give its sound by "
                "audio and audio_from_video_indices"
            )
        return self._read(video) if probe(video).has_audio else None

    def _read(self, path: str | Path) -> np.ndarray:
        return read_audio(path, sample_rate_hz=self.config.sample_rate_hz, max_s=self.config.max_audio_s)

    def _sound_order(self, texts: Sequence[str], owners: Sequence[int | None]) -> Iterator[int]:
        """Which entry of `audio` has its tokens first, second and so on."""
        of_video = {owner: sound for sound, owner in enumerate(owners) if owner is not None}
        alone = iter([sound for sound, owner in enumerate(owners) if owner is None])
        kinds = {self._tokens[kind]: kind for kind in ("video", "audio") if kind in self._tokens}
        videos = 0
        for match in re.finditer("|".join(map(re.escape, kinds)), "\n".join(texts)):
            if kinds[match[0]] == "audio":
                yield next(alone)
                continue
            if videos in of_video:
                yield of_video[videos]
            videos += 1


def _at(times_s: Sequence[float]) -> dict[str, Any]:
    """Times as transformers has them: numbers of frames, here of a film of one frame a second."""
    return {"total_num_frames": len(times_s), "fps": 1.0, "frames_indices": list(times_s)}


def _require_pairs(owners: Sequence[int | None], sounds: int, videos: int) -> None:
    if len(owners) != sounds:
        raise ValueError(f"audio_from_video_indices names the owners of {len(owners)} sounds, not {sounds}")
    named = [owner for owner in owners if owner is not None]
    for owner in named:
        if not 0 <= owner < videos:
            raise ValueError(f"audio_from_video_indices names video {owner}, but there are {videos}")
        if named.count(owner) > 1:
            raise ValueError(f"audio_from_video_indices gives video {owner} {named.count(owner)} sounds")


def _parts(conversations: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    messages = [message for conversation in conversations for message in conversation]
    contents = [message.get("content") or [] for message in messages]
    return [part for content in contents if not isinstance(content, str) for part in content]
