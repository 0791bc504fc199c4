"""Encoders: towers and connectors, from media to features at their positions before the language model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from llava_av.model.audio.front_end import LogMelFrontEnd, front_end_of
from llava_av.model.audio.tower import build_audio_tower
from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.connector.from_config import (
    audio_downsampler_of,
    audio_projector_of,
    fast_pool_of,
    resampler_of,
    vision_projector_of,
)
from llava_av.model.device_waits import on_device
from llava_av.model.media_inputs import MediaInputs, MediaInputSizes
from llava_av.model.sequence.token_counts import TokenCounts
from llava_av.model.vision.anyres import AnyRes
from llava_av.model.vision.tower import leading_tokens, patch_features

__all__ = ["LlavaAvEncoders", "MediaFeatures", "initialise_connector", "new_newline"]


@dataclass(frozen=True, kw_only=True)
class MediaFeatures:
    """Features of each medium at each of its positions, `[tokens, width]`."""

    video: Sequence[Tensor] = ()
    image: Sequence[Tensor] = ()
    audio: Sequence[Tensor] = ()
    absent: list[Tensor] = field(default_factory=list)
    """Features of blank media for encoders without input."""


class LlavaAvEncoders(PreTrainedModel):
    """Towers, resampler, down-sampler and projectors; absent for a modality whose config is None.

    Images and frames share the vision tower, and those of one call go through it together.
    """

    config: LlavaAvConfig
    config_class = LlavaAvConfig

    def __init__(self, config: LlavaAvConfig) -> None:
        super().__init__(config)
        self.token_counts = TokenCounts(config)
        self._anyres = AnyRes.from_config(config)
        # the order of the parts is the order of random draws, so a seed keeps giving the same weights
        if config.has_vision:
            leading_tokens(config.vision_config)  # raises for an unknown tower
            self.vision_tower = AutoModel.from_config(config.vision_config)
        if config.has_audio:
            self.audio_tower = build_audio_tower(config.audio_config, front_end_of(config))
        if config.has_vision:
            self.resampler = resampler_of(config)
        if config.has_audio:
            self.audio_downsampler = audio_downsampler_of(config)
        if config.has_vision:
            self.vision_projector = vision_projector_of(config)
            self.fast_pool: Any = fast_pool_of(config)
            if self._anyres is not None or config.video_newline != "none":
                self.newline = nn.Parameter(new_newline(config))
        if config.has_audio:
            self.audio_projector = audio_projector_of(config, self.audio_downsampler.width_out)

    def _init_weights(self, module: nn.Module) -> None:
        """Scale the connectors' own matrices by their width; towers initialise themselves."""
        _scale(module)

    def train(self, mode: bool = True) -> "LlavaAvEncoders":
        """Set the training mode as in PyTorch; a tower without trained weights stays in eval mode."""
        super().train(mode)
        for name in ("vision_tower", "audio_tower"):
            if hasattr(self, name):
                _keep_frozen_in_eval(getattr(self, name))
        return self

    def media_features(
        self, media: MediaInputs, sizes: MediaInputSizes | None = None, *, run_absent: bool = False
    ) -> MediaFeatures:
        """Return the features of each medium at each of its positions.

        In distributed training every process has to call the same modules in the same order in every step,
        and needs the gradients of all. With `run_absent` encoders without input get blank media, whose
        features are returned as `absent`; vision comes before audio either way. Gradients then arrive in the
        same order in all processes, on which ZeRO-2 relies without a check.

        Args:
            media: Media of a batch.
            sizes: Their sizes; None to read them from the device of the media.
            run_absent: True to also run encoders without media.

        Raises:
            ValueError: The model lacks a modality of the media, or sizes contradict each other.
        """
        video: Sequence[Tensor] = ()
        image: Sequence[Tensor] = ()
        audio: Sequence[Tensor] = ()
        absent: list[Tensor] = []
        sizes = media.sizes() if sizes is None else sizes
        if media.pixel_values_videos is not None or media.pixel_values is not None:
            video, image = self._vision_features(media, sizes)
        elif run_absent and self.config.has_vision:
            absent.append(self._blank_frame_features())
        if media.audio_values is not None:
            self._require("audio")
            if sizes.audio_lengths is None:
                raise ValueError("audio_values need audio_lengths")
            audios = self.audio_features(media.audio_values, sizes.audio_lengths)
            audio = _ordered(audios, sizes.audio_order)
        elif run_absent and self.config.has_audio:
            absent.append(self._silence_features())
        return MediaFeatures(video=video, image=image, audio=audio, absent=absent)

    def audio_features(self, values: Tensor, samples: Sequence[int]) -> list[Tensor]:
        """Encode audio to tokens `[audio_tokens, width]` each.

        Args:
            values: Output of the front end: waveforms `[audios, longest]`, padded, or the log-mel windows of
                all audio arrays, `[windows, mel bins, frames]`.
            samples: Number of samples of each array.
        """
        tower = self.audio_tower
        _keep_frozen_in_eval(tower)
        values = values.to(tower.model.dtype)
        if isinstance(tower.front_end, LogMelFrontEnd):
            prepared = values.split([len(tower.front_end.windows(count)) for count in samples])
        else:
            prepared = tuple(row[:count] for row, count in zip(values, samples, strict=True))
        # `forward` instead of a module call: ZeRO-3 tracks each output of one, and here each array is an
        # output
        features = tower.forward(prepared, samples)
        lengths = [len(one) for one in features]
        downsampled = self.audio_downsampler(nn.utils.rnn.pad_sequence(features, batch_first=True), lengths)
        counts = [self.audio_downsampler.tokens(length) for length in lengths]
        tokens = torch.cat([row[:count] for row, count in zip(downsampled, counts, strict=True)])
        return list(self.audio_projector(tokens).split(counts))

    def _vision_features(
        self, media: MediaInputs, sizes: MediaInputSizes
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the features of videos and of images at their positions."""
        self._require("vision")
        frames, frame_counts = _frames(media, sizes.video_frames)
        tiles, tile_counts = self._tiles(media.pixel_values, sizes)
        frame_tokens, tile_tokens = self._frame_and_tile_tokens(frames, frame_counts, tiles)
        videos = self._videos(frame_tokens, frame_counts)
        images = [] if tiles is None else self._images(tile_tokens, tile_counts, sizes.image_sizes)
        return _ordered(videos, sizes.video_order), _ordered(images, sizes.image_order)

    def _patches(self, pixels: Tensor) -> Tensor:
        _keep_frozen_in_eval(self.vision_tower)
        return patch_features(self.vision_tower, pixels.to(self.vision_tower.dtype), self.config)

    def _require(self, part: str) -> None:
        if getattr(self.config, f"{part}_config") is None:
            raise ValueError(f"there is input for the {part} tower, but the model has no {part} part")

    def _frame_and_tile_tokens(
        self, frames: Tensor | None, counts: list[int], tiles: Tensor | None
    ) -> tuple[list[Tensor], Tensor]:
        """Return tokens of each frame `[tokens, width]` and of all tiles `[tiles, tokens, width]`.

        Newlines are not included. Each module is called once, whatever the input.
        """
        patches = self._patches(torch.cat([part for part in (frames, tiles) if part is not None]))
        split = sum(counts)
        of_frames, of_tiles = patches[:split], patches[split:]
        if self.config.resample_projected:
            of_frames, of_tiles = self.vision_projector(patches).split([split, len(of_tiles)])
        is_slow = [one for count in counts for one in self.token_counts.slow_frames(count)]
        slow = [place for place, one in enumerate(is_slow) if one]
        fast = [place for place, one in enumerate(is_slow) if not one]
        fine = [_chosen(self._grid(of_frames), slow)] + (
            [self._grid(of_tiles)] if self._resamples_tiles else []
        )
        side = self.config.patches_per_side
        parts = [self.resampler(torch.cat(fine), side, side)] if sum(map(len, fine)) else []
        if not parts and self.training:
            # only images that bypass the resampler: its gradient is needed all the same
            resampled = self.resampler(self._grid(of_tiles)[:1], side, side)
            of_tiles = of_tiles + 0.0 * resampled.sum()
        parts += [self.fast_pool(_chosen(self._grid(of_frames), fast), side, side)] if fast else []
        parts += [] if self._resamples_tiles or not len(of_tiles) else [of_tiles]
        if not self.config.resample_projected:
            parts = self._projected(parts)
        if self.training and hasattr(self, "newline"):
            # some inputs have no newline; its gradient is needed, and at the same place among the others
            parts[0] = parts[0] + 0.0 * self.newline.sum()
        return self._separated(parts, is_slow, len(of_tiles))

    def _projected(self, parts: list[Tensor]) -> list[Tensor]:
        """Project each `[n, tokens, features]` to `[n, tokens, width]` in one call."""
        flat = self.vision_projector(torch.cat([part.flatten(0, 1) for part in parts]))
        rows = flat.split([part.shape[0] * part.shape[1] for part in parts])
        return [row.unflatten(0, part.shape[:2]) for row, part in zip(rows, parts, strict=True)]

    def _separated(self, parts: list[Tensor], is_slow: list[bool], tiles: int) -> tuple[list[Tensor], Tensor]:
        """Return the frames in their original order, and the tiles."""
        slow_count = sum(is_slow)
        of_tiles = parts[0][slow_count:] if self._resamples_tiles else parts[-1]
        slow_and_fast = iter(parts[0][:slow_count]), iter(parts[1] if not all(is_slow) else ())
        return [next(slow_and_fast[not one]) for one in is_slow], of_tiles[len(of_tiles) - tiles :]

    def _grid(self, patches: Tensor) -> Tensor:
        """Return the patches without the tokens before them."""
        return patches[:, -(self.config.patches_per_side**2) :]

    @property
    def _resamples_tiles(self) -> bool:
        return self._anyres is None and self.config.resample_images

    def _blank_frame_features(self) -> Tensor:
        """Return the features of a blank frame, `[tokens, width]`."""
        size = self.config.frame_size
        blank = torch.zeros(1, 3, size, size, dtype=self.dtype, device=self.device)
        return self._frame_and_tile_tokens(blank, [1], None)[0][0]

    def _silence_features(self) -> Tensor:
        """Return the features of the shortest silence, `[tokens, width]`."""
        silence, samples = self.audio_tower.front_end.silence()
        values = silence if isinstance(self.audio_tower.front_end, LogMelFrontEnd) else silence[None]
        return self.audio_features(on_device(values, self.device), [samples])[0]

    def _videos(self, frames: list[Tensor], counts: list[int]) -> list[Tensor]:
        """Return the tokens of each video, including newlines."""
        newline = self.config.video_newline
        if newline == "grid":
            slow = [one for count in counts for one in self.token_counts.slow_frames(count)]
            rows = [self.token_counts.frame_rows(one) for one in slow]
            frames = [
                self._with_newline(frame.unflatten(0, (count, -1))).flatten(0, 1)
                for frame, count in zip(frames, rows, strict=True)
            ]
        elif newline == "frame":
            frames = [self._with_newline(frame) for frame in frames]
        rest = iter(frames)
        videos = [torch.cat([next(rest) for _ in range(count)]) for count in counts]
        return [self._with_newline(video) for video in videos] if newline == "one" else videos

    def _images(self, tokens: Tensor, tile_counts: list[int], sizes: list[list[int]] | None) -> list[Tensor]:
        """Return the tokens of each image, including newlines."""
        if self._anyres is None:
            return list(tokens)
        assert sizes is not None, "tiles were counted from the sizes"
        return [
            self._anyres.pack(image, (height, width), self.newline)
            if len(image) > 1
            else self._with_newline(image[0])
            for image, (height, width) in zip(tokens.split(tile_counts), sizes, strict=True)
        ]

    def _with_newline(self, tokens: Tensor) -> Tensor:
        """Append the newline to `[…, n, width]`."""
        end = self.newline.to(tokens).expand(*tokens.shape[:-2], 1, -1)
        return torch.cat([tokens, end], dim=-2)

    def _tiles(self, pixels: Tensor | None, sizes: MediaInputSizes) -> tuple[Tensor | None, list[int]]:
        """Return the tiles of all images `[tiles, 3, size, size]`, and the number of each image."""
        if pixels is None:
            return None, []
        if self._anyres is None:
            tiles = pixels.flatten(0, 1) if pixels.ndim == 5 else pixels
            return tiles, [1] * len(tiles)
        if sizes.image_sizes is None:
            raise ValueError("pixel_values of a model with tiles need image_sizes")
        given = sizes.image_tiles
        counts = self._tile_counts(sizes.image_sizes, sizes.batch_num_images) if given is None else given
        if pixels.ndim == 5:
            pixels = torch.cat([image[:count] for image, count in zip(pixels, counts, strict=True)])
        if len(pixels) != sum(counts):
            raise ValueError(f"pixel_values have {len(pixels)} tiles but image_sizes need {sum(counts)}")
        return pixels, counts

    def _tile_counts(self, sizes: list[list[int]], per_row: list[int] | None) -> list[int]:
        images = [1] * len(sizes) if per_row is None else [count for count in per_row for _ in range(count)]
        if len(images) != len(sizes):
            raise ValueError(f"batch_num_images counts {len(images)} images but image_sizes {len(sizes)}")
        return [
            self.token_counts.image_tiles((height, width), alone=number == 1)
            for (height, width), number in zip(sizes, images, strict=True)
        ]


def initialise_connector(connector: nn.Module) -> nn.Module:
    """Return the connector with the weights of a fresh model; equal generator states give equal weights."""
    return connector.apply(_scale)


def new_newline(config: LlavaAvConfig) -> Tensor:
    """Draw the newline token of a fresh model, `[width]`."""
    width: int = config.text_config.hidden_size
    return torch.randn(width) * float(width**-0.5)


def _keep_frozen_in_eval(tower: nn.Module) -> None:
    """Put a tower without trained weights into eval mode, whatever mode its modules were set to."""
    if any(weight.requires_grad for weight in tower.parameters()):
        return
    if any(module.training for module in tower.modules()):
        tower.eval()


def _scale(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _chosen(frames: Tensor, places: list[int]) -> Tensor:
    return frames.index_select(0, on_device(torch.tensor(places, dtype=torch.int64), frames.device))


def _frames(media: MediaInputs, counts: list[int] | None) -> tuple[Tensor | None, list[int]]:
    """Return the frames of all videos `[frames, 3, size, size]`, and the number of each video."""
    pixels = media.normalised_frames()
    if pixels is None:
        return None, []
    if pixels.ndim == 5:
        return pixels.flatten(0, 1), [pixels.shape[1]] * len(pixels)
    if counts is None:
        raise ValueError("frames of several videos in one tensor need video_frames")
    if len(pixels) != sum(counts):
        raise ValueError(f"pixel_values_videos have {len(pixels)} frames but video_frames {sum(counts)}")
    return pixels, counts


def _ordered(features: list[Tensor], order: list[int] | None) -> list[Tensor]:
    return features if order is None else [features[index] for index in order]
