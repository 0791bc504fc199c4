"""What stands before the language model: towers and joints, from media to features at their places."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from llava_av.model.audio.front_end import LogMelFrontEnd
from llava_av.model.audio.tower import build_audio_tower
from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.sequence.layout import (
    MediaLayout,
    anyres_of,
    audio_downsampler_of,
    audio_projector_of,
    fast_pool_of,
    front_end_of,
    resampler_of,
    vision_projector_of,
)
from llava_av.model.vision.tower import leading_tokens, patch_features

__all__ = ["MEDIA_INPUTS", "LlavaAvEncoders", "fresh_newline", "initialise"]

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
            leading_tokens(config.vision_config)  # refuses a tower that it does not know
            self.vision_tower = AutoModel.from_config(config.vision_config)
        if hears:
            self.audio_tower = build_audio_tower(config.audio_config, front_end_of(config))
        if sees:
            self.resampler = resampler_of(config)
        if hears:
            self.audio_downsampler = audio_downsampler_of(config)
        if sees:
            self.vision_projector = vision_projector_of(config)
            self.fast_pool: Any = fast_pool_of(config)
            if self._anyres is not None or config.video_newline != "none":
                self.newline = nn.Parameter(fresh_newline(config))
        if hears:
            self.audio_projector = audio_projector_of(config, self.audio_downsampler.width_out)

    def _init_weights(self, module: nn.Module) -> None:
        """Scales the joining parts' own matrices by their width; towers initialise themselves."""
        _scale(module)

    def train(self, mode: bool = True) -> "LlavaAvEncoders":
        """As in PyTorch; a tower none of whose weights is trained stays in eval mode."""
        super().train(mode)
        for name in ("vision_tower", "audio_tower"):
            if hasattr(self, name):
                _keep_in_eval(getattr(self, name))
        return self

    def media_features(
        self,
        *,
        run_absent: bool = False,
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
    ) -> dict[str, list[Tensor]]:
        """Features of each medium at each of its places, `[tokens, width]`; by `image`, `video`, `audio`.

        In distributed training every process has to call the same parts in the same order in every step,
        and needs the gradients of all. With `run_absent` the parts that get no media are called for blank
        ones, and what they give is there as `absent`; pictures come before sound either way. Gradients then
        arrive in the same order in all processes, which ZeRO-2 relies on without a check.

        Raises:
            ValueError: media for which the model has no part, or whose sizes do not fit each other.
        """
        features: dict[str, list[Tensor]] = {}
        absent: list[Tensor] = []
        frames, counts = _frames(pixel_values_videos, video_frames)
        tiles, tiled = self._tiles(pixel_values, image_sizes, batch_num_images, image_tiles)
        if frames is not None or tiles is not None:
            videos, images = self._pictures(frames, counts, tiles)
            if frames is not None:
                features["video"] = _placed(self._videos(videos, counts), video_order)
            if tiles is not None:
                features["image"] = _placed(self._images(images, tiled, image_sizes), image_order)
        elif run_absent and self.config.vision_config is not None:
            absent.append(self._no_picture())
        if audio_values is not None:
            self._require("audio")
            if audio_lengths is None:
                raise ValueError("audio_values need audio_lengths beside them")
            sounds = self.sound_features(audio_values, audio_lengths.tolist())
            features["audio"] = _placed(sounds, audio_order)
        elif run_absent and self.config.audio_config is not None:
            absent.append(self._silence())
        return features | ({"absent": absent} if absent else {})

    def sound_features(self, values: Tensor, samples: Sequence[int]) -> list[Tensor]:
        """Sounds to tokens `[audio_tokens, width]` each.

        Args:
            values: what the front end prepared: waveforms `[sounds, longest]`, padded, or the log-mel windows
                of all sounds, `[windows, mel bins, frames]`.
            samples: samples of each sound.
        """
        tower = self.audio_tower
        _keep_in_eval(tower)
        values = values.to(tower.model.dtype)
        if isinstance(tower.front_end, LogMelFrontEnd):
            sounds = values.split([len(tower.front_end.windows(count)) for count in samples])
        else:
            sounds = tuple(row[:count] for row, count in zip(values, samples, strict=True))
        # not as a module: ZeRO-3 notes each output of one, and here are as many as there are sounds
        features = tower.forward(sounds, samples)
        lengths = [len(one) for one in features]
        joined = self.audio_downsampler(nn.utils.rnn.pad_sequence(features, batch_first=True), lengths)
        counts = [self.audio_downsampler.tokens(length) for length in lengths]
        tokens = torch.cat([row[:count] for row, count in zip(joined, counts, strict=True)])
        return list(self.audio_projector(tokens).split(counts))

    def _patches(self, pixels: Tensor) -> Tensor:
        self._require("vision")
        _keep_in_eval(self.vision_tower)
        return patch_features(self.vision_tower, pixels.to(self.vision_tower.dtype), self.config)

    def _require(self, part: str) -> None:
        if getattr(self.config, f"{part}_config") is None:
            raise ValueError(f"there is input for the {part} tower, but the model has no {part} part")

    def _pictures(
        self, frames: Tensor | None, counts: list[int], tiles: Tensor | None
    ) -> tuple[list[Tensor], Tensor]:
        """Tokens of each frame `[tokens, width]` and of all tiles `[tiles, tokens, width]`, newlines apart.

        Each part is called once, whatever the pictures are.
        """
        patches = self._patches(torch.cat([part for part in (frames, tiles) if part is not None]))
        split = sum(counts)
        of_frames, of_tiles = patches[:split], patches[split:]
        if self.config.resample_projected:
            of_frames, of_tiles = self.vision_projector(patches).split([split, len(of_tiles)])
        slow = torch.tensor([one for count in counts for one in self.layout.slow(count)], dtype=torch.bool)
        fine = [self._grid(of_frames)[slow]] + ([self._grid(of_tiles)] if self._resamples_tiles else [])
        side = self.config.side()
        parts = [self.resampler(torch.cat(fine), side, side)] if sum(map(len, fine)) else []
        if not parts and self.training:
            # images alone that do not go through the resampler: it needs its gradient all the same
            resampled = self.resampler(self._grid(of_tiles)[:1], side, side)
            of_tiles = of_tiles + 0.0 * resampled.sum()
        parts += [] if slow.all() else [self.fast_pool(self._grid(of_frames)[~slow], side, side)]
        parts += [] if self._resamples_tiles or not len(of_tiles) else [of_tiles]
        if not self.config.resample_projected:
            parts = self._projected(parts)
        if self.training and hasattr(self, "newline"):
            # some pictures have none; its gradient has to come, and at the same place among the others
            parts[0] = parts[0] + 0.0 * self.newline.sum()
        return self._sorted(parts, slow, len(of_tiles))

    def _projected(self, parts: list[Tensor]) -> list[Tensor]:
        """Each `[n, tokens, features]` to `[n, tokens, width]`, in one call."""
        flat = self.vision_projector(torch.cat([part.flatten(0, 1) for part in parts]))
        rows = flat.split([part.shape[0] * part.shape[1] for part in parts])
        return [row.unflatten(0, part.shape[:2]) for row, part in zip(rows, parts, strict=True)]

    def _sorted(self, parts: list[Tensor], slow: Tensor, tiles: int) -> tuple[list[Tensor], Tensor]:
        """Frames in their own order again, and the tiles apart."""
        of_slow = int(slow.sum())
        of_tiles = parts[0][of_slow:] if self._resamples_tiles else parts[-1]
        streams = iter(parts[0][:of_slow]), iter(parts[1] if not slow.all() else ())
        return [next(streams[not one]) for one in slow.tolist()], of_tiles[len(of_tiles) - tiles :]

    def _grid(self, patches: Tensor) -> Tensor:
        """Patches without the tokens before them."""
        return patches[:, -(self.config.side() ** 2) :]

    @property
    def _resamples_tiles(self) -> bool:
        return self._anyres is None and self.config.resample_images

    def _no_picture(self) -> Tensor:
        """What a blank frame gives, `[tokens, width]`."""
        size = self.config.frame_size
        blank = torch.zeros(1, 3, size, size, dtype=self.dtype, device=self.device)
        return self._pictures(blank, [1], None)[0][0]

    def _silence(self) -> Tensor:
        """What the shortest silence gives, `[tokens, width]`."""
        silence, samples = self.audio_tower.front_end.silence()
        values = silence if isinstance(self.audio_tower.front_end, LogMelFrontEnd) else silence[None]
        return self.sound_features(values.to(self.device), [samples])[0]

    def _videos(self, frames: list[Tensor], counts: list[int]) -> list[Tensor]:
        """Tokens of each video, newlines and all."""
        newline = self.config.video_newline
        if newline == "grid":
            slow = [one for count in counts for one in self.layout.slow(count)]
            rows = [self.layout.frame_rows(one) for one in slow]
            frames = [
                self._ended(frame.unflatten(0, (count, -1))).flatten(0, 1)
                for frame, count in zip(frames, rows, strict=True)
            ]
        elif newline == "frame":
            frames = [self._ended(frame) for frame in frames]
        rest = iter(frames)
        videos = [torch.cat([next(rest) for _ in range(count)]) for count in counts]
        return [self._ended(video) for video in videos] if newline == "one" else videos

    def _images(self, tokens: Tensor, tiled: list[int], sizes: Tensor | None) -> list[Tensor]:
        """Tokens of each image, newlines and all."""
        if self._anyres is None:
            return list(tokens)
        assert sizes is not None, "tiles were counted from the sizes"
        return [
            self._anyres.pack(image, (height, width), self.newline)
            if len(image) > 1
            else self._ended(image[0])
            for image, (height, width) in zip(tokens.split(tiled), sizes.tolist(), strict=True)
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


def fresh_newline(config: LlavaAvConfig) -> Tensor:
    """The newline token of a fresh model, `[width]`."""
    width: int = config.text_config.hidden_size
    return torch.randn(width) * float(width**-0.5)


def _keep_in_eval(tower: nn.Module) -> None:
    """A tower none of whose weights is trained computes as in eval mode, whatever its parts were told."""
    if any(weight.requires_grad for weight in tower.parameters()):
        return
    if any(module.training for module in tower.modules()):
        tower.eval()


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


def _placed(features: list[Tensor], order: Tensor | None) -> list[Tensor]:
    return features if order is None else [features[index] for index in order.tolist()]
