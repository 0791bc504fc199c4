"""Collation of decoded media into `MediaInputs`; a medium that several rows share is included once."""

from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llava_av.media.resizing import ImageResizing
from llava_av.model.audio.front_end import AudioArray
from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.media_inputs import MediaInputs, as_bits, normalised
from llava_av.model.sequence.token_counts import TokenCounts

__all__ = ["MediaCollator", "pack_prepared_audio"]

_HALF = (0.5, 0.5, 0.5)
_RESIZE_ONLY = {"do_rescale": False, "do_normalize": False}
# Number of values that are hashed before two arrays are compared as a whole.
_HASHED_VALUES = 256


class MediaCollator:
    """Builds the model's media inputs from decoded arrays.

    Args:
        config: Config of the model.
        counts: Token counts of the model, with the front end of its audio tower.
        image_processor: Processor for images of other sizes than a frame; its mean and standard
            deviation also normalise frames that the reader resizes (None: 0.5 for each channel).
        video_processor: Processor for frames that it resizes itself.
    """

    def __init__(
        self, config: LlavaAvConfig, counts: TokenCounts, image_processor: Any, video_processor: Any
    ) -> None:
        self._size = config.frame_size
        self._processors_resize = config.resized_by == "processor"
        self._tiled = config.image_grid_pinpoints is not None
        self._tile_several = config.tile_several_images
        self._counts = counts
        self._image_processor = image_processor
        self._video_processor = video_processor
        self._max_image_pixels = config.max_image_pixels
        mean_and_std = (getattr(image_processor, name, None) or _HALF for name in ("image_mean", "image_std"))
        self._norm = as_bits(torch.tensor(tuple(mean_and_std)))

    def image_resizing(self) -> ImageResizing:
        """Return how the reader resizes images and frames: as the model's processors do, if they resize."""
        image, video = self._image_processor, self._video_processor
        own = self._processors_resize
        return ImageResizing(
            max_image_pixels=self._max_image_pixels,
            resize_image=partial(_resized_image, image)
            if own and image is not None and not self._tiled
            else None,
            resize_frame=partial(_resized_frame, video) if own and video is not None else None,
        )

    def collate(
        self,
        videos: Sequence[Sequence[np.ndarray]],
        images: Sequence[Sequence[np.ndarray]],
        audios: Sequence[Sequence[AudioArray]],
    ) -> MediaInputs:
        """Collate the media of each row.

        Args:
            videos: Frames `[frames, size, size, 3]` of each video; of any size if the model's processor
                resizes.
            images: `[height, width, 3]`.
            audios: `[samples]`.

        Raises:
            ValueError: The tower cannot take an audio array; names both numbers.
        """
        return MediaInputs.from_arguments(self._videos(videos) | self._images(images) | self._audios(audios))

    def _videos(self, rows: Sequence[Sequence[np.ndarray]]) -> dict[str, Tensor]:
        distinct = _DistinctArrays()
        order = [distinct.add(frames) for row in rows for frames in row]
        if not order:
            return {}
        frames = self._frames(distinct.arrays)
        return {
            "pixel_values_videos": frames,
            **({"frame_norm": self._norm} if frames.dtype == torch.uint8 else {}),
            "video_frames": torch.tensor([len(frames) for frames in distinct.arrays]),
            "video_order": torch.tensor(order),
        }

    def _frames(self, videos: Sequence[np.ndarray]) -> Tensor:
        """Return `[frames, 3, size, size]` of all videos, one after the other; bytes unless processed."""
        if not self._processors_resize or self._video_processor is None:
            return _channels_first(np.concatenate(videos))
        return torch.cat([_processed_frames(self._video_processor, frames) for frames in videos])

    def _images(self, rows: Sequence[Sequence[np.ndarray]]) -> dict[str, Tensor]:
        distinct = _DistinctArrays()
        order = [distinct.add(image, len(row) == 1 or self._tile_several) for row in rows for image in row]
        if not order:
            return {}
        tiles = [
            self._tiles(image, alone) for image, alone in zip(distinct.arrays, distinct.flags, strict=True)
        ]
        return {
            "pixel_values": torch.cat(tiles),
            "image_sizes": torch.tensor([image.shape[:2] for image in distinct.arrays]),
            "image_tiles": torch.tensor([len(one) for one in tiles]),
            "image_order": torch.tensor(order),
        }

    def _tiles(self, image: np.ndarray, alone: bool) -> Tensor:
        """Return `[tiles, 3, size, size]` of one image."""
        if not self._tiled and not self._processors_resize and image.shape[:2] == (self._size, self._size):
            return normalised(_channels_first(image[None]), self._norm)
        if self._image_processor is None:
            raise ValueError(
                f"an image of {image.shape[0]}x{image.shape[1]} pixels does not fit the model, which has no "
                f"image processor and accepts {self._size}x{self._size}"
            )
        pixels = _channels_first(image)
        # with two images in a row the processor does not tile them
        row = [pixels] if alone or not self._tiled else [pixels, pixels]
        processed = self._image_processor([row] if self._tiled else row, return_tensors="pt")
        tiles: Tensor = processed["pixel_values"]
        return tiles[0] if tiles.ndim == 5 else tiles[:1]

    def _audios(self, rows: Sequence[Sequence[AudioArray]]) -> dict[str, Tensor]:
        distinct = _DistinctArrays()
        order = [distinct.add(audio) for row in rows for audio in row]
        front_end = self._counts.front_end
        if not order or front_end is None:
            return {}
        prepared = [front_end.prepare(audio, front_end.sample_rate_hz) for audio in distinct.arrays]
        return {
            "audio_values": pack_prepared_audio(prepared),
            "audio_lengths": torch.tensor([len(audio) for audio in distinct.arrays]),
            "audio_order": torch.tensor(order),
        }


def pack_prepared_audio(prepared: Sequence[Tensor]) -> Tensor:
    """Join outputs of the front end: waveforms padded to `[audios, longest]`, log-mel windows in sequence."""
    if prepared[0].ndim == 1:
        return nn.utils.rnn.pad_sequence(list(prepared), batch_first=True)
    return torch.cat(list(prepared))


def _resized_image(processor: Any, image: np.ndarray) -> np.ndarray:
    """Return the image at the size of its processor, still in bytes; later processing changes no size."""
    resized = processor([_channels_first(image)], **_RESIZE_ONLY, return_tensors="pt")["pixel_values"]
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def _resized_frame(processor: Any, frame: np.ndarray) -> np.ndarray:
    """Return a video frame at the size of its processor, still in bytes."""
    resized = _processed_frames(processor, frame[None], **_RESIZE_ONLY)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def _processed_frames(processor: Any, frames_nhwc: np.ndarray, **options: Any) -> Tensor:
    """Return `[frames, 3, size, size]` of a video's frames of any size."""
    given = [_channels_first(frames_nhwc)]
    processed = processor(given, do_sample_frames=False, return_tensors="pt", **options)
    pixels: Tensor = processed["pixel_values_videos"][0]
    return pixels


def _channels_first(pixels: np.ndarray) -> Tensor:
    """Convert `[…, height, width, 3]` to `[…, 3, height, width]`."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).movedim(-1, -3)


class _DistinctArrays:
    """Arrays without duplicates, in order of first occurrence; each has a flag that distinguishes it, too."""

    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []
        self.flags: list[bool] = []
        self._index_of: dict[tuple[int, bool], int] = {}
        self._alike: dict[Hashable, list[int]] = {}

    def add(self, array: np.ndarray, flag: bool = True) -> int:
        """Return the index of the array with that flag, which is appended unless an equal one exists."""
        key = (id(array), flag)
        if key not in self._index_of:
            self._index_of[key] = self._find_or_append(array, flag)
        return self._index_of[key]

    def _find_or_append(self, array: np.ndarray, flag: bool) -> int:
        # Truncating a clip for each of its samples gives equal arrays that are different objects.
        hashed = array.reshape(-1)[:: max(1, array.size // _HASHED_VALUES)].tobytes()
        alike = self._alike.setdefault((array.shape, flag, hashed), [])
        for index in alike:
            if np.array_equal(self.arrays[index], array):
                return index
        alike.append(len(self.arrays))
        self.arrays.append(array)
        self.flags.append(flag)
        return alike[-1]
