"""What stands before the language model: towers and joints, from media to features at their places."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from llava_av.model.audio_tower import build_audio_tower
from llava_av.model.config import LlavaAvConfig
from llava_av.model.layout import (
    MediaLayout,
    anyres_of,
    audio_downsampler_of,
    audio_projector_of,
    front_end_of,
    resampler_of,
    vision_projector_of,
)
from llava_av.model.sound import LogMelFrontEnd
from llava_av.model.vision import patch_features

__all__ = ["MEDIA_INPUTS", "LlavaAvEncoders", "initialise"]

MEDIA_INPUTS = (
    "pixel_values",
    "image_sizes",
    "batch_num_images",
    "image_tiles",
    "image_order",
    "pixel_values_videos",
    "video_frames",
    "video_order",
    "audio_values",
    "audio_lengths",
    "audio_order",
)
"""Arguments of `forward` that stand for media, not for rows of the batch."""


class LlavaAvEncoders(PreTrainedModel):
    """Towers, resampler, down-sampler and projectors; a part whose config is None is not there.

    Images and frames share the vision tower, and pictures of one call go through it together; each sound
    goes through the audio tower beside sounds of its own length only, so padding never touches a feature.
    """

    config: LlavaAvConfig
    config_class = LlavaAvConfig

    def __init__(self, config: LlavaAvConfig) -> None:
        super().__init__(config)
        self.layout = MediaLayout(config)
        self._anyres = anyres_of(config)
        sees, hears = config.vision_config is not None, config.audio_config is not None
        if sees:
            self.vision_tower = AutoModel.from_config(config.vision_config)
        if hears:
            self.audio_tower = build_audio_tower(config.audio_config, front_end_of(config))
        if sees:
            self.resampler = resampler_of(config)
        if hears:
            self.audio_downsampler = audio_downsampler_of(config)
        if sees:
            self.vision_projector = vision_projector_of(config)
            if self._anyres is not None or config.video_newline != "none":
                width = config.text_config.hidden_size
                self.newline = nn.Parameter(torch.randn(width) * width**-0.5)
        if hears:
            self.audio_projector = audio_projector_of(config, self.audio_downsampler.width_out)

    def _init_weights(self, module: nn.Module) -> None:
        """Scales the joining parts' own matrices by their width; towers initialise themselves."""
        _scale(module)

    def train(self, mode: bool = True) -> "LlavaAvEncoders":
        """As in PyTorch; a tower none of whose weights is trained stays in eval mode."""
        super().train(mode)
        for name in ("vision_tower", "audio_tower"):
            tower = getattr(self, name, None)
            if tower is not None and not any(weight.requires_grad for weight in tower.parameters()):
                tower.eval()
        return self

    def media_features(
        self,
        *,
        pixel_values: Tensor | None = None,
        image_sizes: Tensor | None = None,
        batch_num_images: Tensor | None = None,
        image_tiles: Tensor | None = None,
        image_order: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        video_frames: Tensor | None = None,
        video_order: Tensor | None = None,
        audio_values: Tensor | None = None,
        audio_lengths: Tensor | None = None,
        audio_order: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Features of all media in the order of their places, `[tokens, width]` by `image`, `video`, `audio`.

        Raises:
            ValueError: media for which the model has no part, or whose sizes do not fit each other.
        """
        features: dict[str, Tensor] = {}
        frames, counts = _frames(pixel_values_videos, video_frames)
        tiles, tiled = self._tiles(pixel_values, image_sizes, batch_num_images, image_tiles)
        pictures = [part for part in (frames, tiles) if part is not None]
        if pictures:
            patches = self._patches(torch.cat(pictures))
            split = 0 if frames is None else len(frames)
            if frames is not None:
                features["video"] = _placed(self._videos(patches[:split], counts), video_order)
            if tiles is not None:
                images = self._images(patches[split:], tiled, image_sizes)
                features["image"] = _placed(images, image_order)
        if audio_values is not None:
            self._require("audio")
            if audio_lengths is None:
                raise ValueError("audio_values need audio_lengths beside them")
            values = audio_values.to(self.audio_tower.model.dtype)
            features["audio"] = _placed(self.sound_features(values, audio_lengths.tolist()), audio_order)
        return features

    def frame_features(self, pixels: Tensor) -> Tensor:
        """Frames `[n, 3, size, size]`, normalised, to tokens `[n, frame_tokens, width]`, newlines apart."""
        return self._resampled(self._patches(pixels))

    def sound_features(self, values: Tensor, samples: Sequence[int]) -> list[Tensor]:
        """Sounds to tokens `[audio_tokens, width]` each.

        Args:
            values: what the front end prepared: waveforms `[sounds, longest]`, padded, or the log-mel windows
                of all sounds, `[windows, mel bins, frames]`.
            samples: samples of each sound.
        """
        tower = self.audio_tower
        if isinstance(tower.front_end, LogMelFrontEnd):
            sounds = values.split([len(tower.front_end.windows(count)) for count in samples])
        else:
            sounds = tuple(row[:count] for row, count in zip(values, samples, strict=True))
        features = tower(sounds, samples)
        by_length: dict[int, list[int]] = {}
        for index, one in enumerate(features):
            by_length.setdefault(len(one), []).append(index)
        tokens: dict[int, Tensor] = {}
        for indices in by_length.values():
            joined = self.audio_downsampler(torch.stack([features[index] for index in indices]))
            tokens |= zip(indices, self.audio_projector(joined), strict=True)
        return [tokens[index] for index in range(len(samples))]

    def absent_features(self, present: dict[str, Tensor], like: Tensor) -> Tensor:
        """Runs each encoder that `present` has nothing of, on blank media; a number that depends on them.

        In distributed training every process needs the gradients of every encoder in every step.
        """
        total = like.new_zeros(())
        size = self.config.frame_size
        if self.config.vision_config is not None and not {"image", "video"} & set(present):
            total = total + self.frame_features(like.new_zeros(1, 3, size, size)).sum()
            if hasattr(self, "newline"):
                total = total + self.newline.sum()
        if self.config.audio_config is not None and "audio" not in present:
            silence, samples = self.audio_tower.front_end.silence()
            values = silence if isinstance(self.audio_tower.front_end, LogMelFrontEnd) else silence[None]
            total = total + self.sound_features(values.to(like), [samples])[0].sum()
        return total

    def _patches(self, pixels: Tensor) -> Tensor:
        self._require("vision")
        return patch_features(self.vision_tower, pixels.to(self.vision_tower.dtype), self.config)

    def _require(self, part: str) -> None:
        if getattr(self.config, f"{part}_config") is None:
            raise ValueError(f"there is input for the {part} tower, but the model has no {part} part")

    def _resampled(self, patches: Tensor) -> Tensor:
        side = self.config.side()
        grid = patches[:, -side * side :]
        if self.config.resample_projected:
            resampled: Tensor = self.resampler(self.vision_projector(grid), side, side)
        else:
            resampled = self.vision_projector(self.resampler(grid, side, side))
        return resampled

    def _videos(self, patches: Tensor, counts: list[int]) -> list[Tensor]:
        """Tokens of each video, newlines and all."""
        tokens = self._resampled(patches)
        newline = self.config.video_newline
        if newline == "grid":
            rows = self.layout.frame_rows()
            tokens = self._ended(tokens.unflatten(1, (rows, -1))).flatten(1, 2)
        elif newline == "frame":
            tokens = self._ended(tokens)
        videos = [video.flatten(0, 1) for video in tokens.split(counts)]
        return [self._ended(video) for video in videos] if newline == "one" else videos

    def _images(self, patches: Tensor, tiled: list[int], sizes: Tensor | None) -> list[Tensor]:
        """Tokens of each image, newlines and all."""
        if self._anyres is None:
            resampled = self.config.resample_images
            return list(self._resampled(patches) if resampled else self.vision_projector(patches))
        assert sizes is not None, "tiles were counted from the sizes"
        images = self.vision_projector(patches).split(tiled)
        return [
            self._anyres.pack(image, (height, width), self.newline)
            if len(image) > 1
            else self._ended(image[0])
            for image, (height, width) in zip(images, sizes.tolist(), strict=True)
        ]

    def _ended(self, tokens: Tensor) -> Tensor:
        """`[…, n, width]` with the newline after the last."""
        end = self.newline.to(tokens).expand(*tokens.shape[:-2], 1, -1)
        return torch.cat([tokens, end], dim=-2)

    def _tiles(
        self, pixels: Tensor | None, sizes: Tensor | None, per_row: Tensor | None, given: Tensor | None
    ) -> tuple[Tensor | None, list[int]]:
        """Tiles of all images `[tiles, 3, size, size]`, and how many each image has."""
        if pixels is None:
            return None, []
        if self._anyres is None:
            tiles = pixels.flatten(0, 1) if pixels.ndim == 5 else pixels
            return tiles, [1] * len(tiles)
        if sizes is None:
            raise ValueError("pixel_values of a model with tiles need image_sizes beside them")
        tiled = self._tile_counts(sizes, per_row) if given is None else given.tolist()
        if pixels.ndim == 5:
            pixels = torch.cat([image[:count] for image, count in zip(pixels, tiled, strict=True)])
        if len(pixels) != sum(tiled):
            raise ValueError(f"pixel_values hold {len(pixels)} tiles but image_sizes ask for {sum(tiled)}")
        return pixels, tiled

    def _tile_counts(self, sizes: Tensor, per_row: Tensor | None) -> list[int]:
        images = [1] * len(sizes) if per_row is None else [int(n) for n in per_row for _ in range(int(n))]
        if len(images) != len(sizes):
            raise ValueError(f"batch_num_images counts {len(images)} images but image_sizes {len(sizes)}")
        return [
            self.layout.image_tiles((height, width), alone=number == 1)
            for (height, width), number in zip(sizes.tolist(), images, strict=True)
        ]


def initialise(joint: nn.Module) -> nn.Module:
    """A joint with the weights that it has in a fresh model: the same generator's state gives the same."""
    return joint.apply(_scale)


def _scale(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _frames(pixels: Tensor | None, counts: Tensor | None) -> tuple[Tensor | None, list[int]]:
    """Frames of all videos `[frames, 3, size, size]`, and how many each video has."""
    if pixels is None:
        return None, []
    if pixels.ndim == 5:
        return pixels.flatten(0, 1), [pixels.shape[1]] * len(pixels)
    if counts is None:
        raise ValueError("frames of several videos in one row need video_frames beside them")
    if len(pixels) != int(counts.sum()):
        raise ValueError(
            f"pixel_values_videos hold {len(pixels)} frames but video_frames {int(counts.sum())}"
        )
    return pixels, counts.tolist()


def _placed(features: list[Tensor], order: Tensor | None) -> Tensor:
    return torch.cat(features if order is None else [features[index] for index in order.tolist()])
