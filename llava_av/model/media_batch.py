"""Media of a batch as tensors, in which what several rows share is there once."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llava_av.media.image import ImageResizing
from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.sequence.layout import MediaLayout

__all__ = ["MediaBatcher", "packed_sounds"]

_HALF = (0.5, 0.5, 0.5)
_SIZE_ALONE = {"do_rescale": False, "do_normalize": False}
# Values by which arrays are told apart before they are compared as a whole.
_COMPARED = 256


class MediaBatcher:
    """Makes the media arguments of the model's `forward` from decoded arrays.

    Args:
        config: the model's.
        layout: its arithmetic.
        image_processor: transformers' for images that do not have the size of a frame; its mean and standard
            deviation are those of frames that the reader resizes, too (None: a half each).
        video_processor: transformers' for frames that it resizes itself.
    """

    def __init__(
        self, config: LlavaAvConfig, layout: MediaLayout, image_processor: Any, video_processor: Any
    ) -> None:
        self._size = config.frame_size
        self._own = config.resized_by == "processor"
        self._tiled = config.image_grid_pinpoints is not None
        self._several = config.tile_several_images
        self._layout = layout
        self._image_processor = image_processor
        self._video_processor = video_processor
        self._image_pixels = config.image_pixels()
        self._mean = torch.tensor(getattr(image_processor, "image_mean", None) or _HALF).view(3, 1, 1)
        self._std = torch.tensor(getattr(image_processor, "image_std", None) or _HALF).view(3, 1, 1)

    def image_resizing(self) -> ImageResizing:
        """Which size the pictures of files get: that of the model's own processors, if they resize."""
        image, video = self._image_processor, self._video_processor
        return ImageResizing(
            max_image_pixels=self._image_pixels,
            resize_image=partial(_image, image)
            if self._own and image is not None and not self._tiled
            else None,
            resize_frame=partial(_frame, video) if self._own and video is not None else None,
        )

    def media(
        self,
        videos: Sequence[Sequence[np.ndarray]],
        images: Sequence[Sequence[np.ndarray]],
        sounds: Sequence[Sequence[np.ndarray]],
    ) -> dict[str, Tensor]:
        """Arguments of `forward` for the media of each row.

        Args:
            videos: frames `[frames, size, size, 3]` of each video; of any size for a model whose processor
                resizes.
            images: `[height, width, 3]`.
            sounds: `[samples]`.

        Raises:
            ValueError: sound that the tower cannot take, with both numbers.
        """
        return self._videos(videos) | self._images(images) | self._sounds(sounds)

    def _videos(self, rows: Sequence[Sequence[np.ndarray]]) -> dict[str, Tensor]:
        distinct = _Distinct()
        order = [distinct.add(frames) for row in rows for frames in row]
        if not order:
            return {}
        return {
            "pixel_values_videos": self._frames(distinct.arrays),
            "video_frames": torch.tensor([len(frames) for frames in distinct.arrays]),
            "video_order": torch.tensor(order),
        }

    def _frames(self, videos: Sequence[np.ndarray]) -> Tensor:
        """`[frames, 3, size, size]` of all videos, one after the other."""
        if not self._own or self._video_processor is None:
            return self._pixels(np.concatenate(videos))
        return torch.cat([_frames(self._video_processor, frames) for frames in videos])

    def _images(self, rows: Sequence[Sequence[np.ndarray]]) -> dict[str, Tensor]:
        distinct = _Distinct()
        order = [distinct.add(image, len(row) == 1 or self._several) for row in rows for image in row]
        if not order:
            return {}
        tiles = [
            self._tiles(image, alone) for image, alone in zip(distinct.arrays, distinct.notes, strict=True)
        ]
        return {
            "pixel_values": torch.cat(tiles),
            "image_sizes": torch.tensor([image.shape[:2] for image in distinct.arrays]),
            "image_tiles": torch.tensor([len(one) for one in tiles]),
            "image_order": torch.tensor(order),
        }

    def _tiles(self, image: np.ndarray, alone: bool) -> Tensor:
        """`[tiles, 3, size, size]` of one image."""
        if not self._tiled and not self._own and image.shape[:2] == (self._size, self._size):
            return self._pixels(image[None])
        if self._image_processor is None:
            raise ValueError(
                f"an image of {image.shape[0]}x{image.shape[1]} pixels, but without an image processor "
                f"the model takes {self._size}x{self._size}"
            )
        picture = _channels_first(image)
        row = [picture] if alone or not self._tiled else [picture, picture]
        processed = self._image_processor([row] if self._tiled else row, return_tensors="pt")
        tiles: Tensor = processed["pixel_values"]
        return tiles[0] if tiles.ndim == 5 else tiles[:1]

    def _sounds(self, rows: Sequence[Sequence[np.ndarray]]) -> dict[str, Tensor]:
        distinct = _Distinct()
        order = [distinct.add(sound) for row in rows for sound in row]
        end = self._layout.front_end
        if not order or end is None:
            return {}
        return {
            "audio_values": packed_sounds([end.prepare(one, end.sample_rate_hz) for one in distinct.arrays]),
            "audio_lengths": torch.tensor([len(sound) for sound in distinct.arrays]),
            "audio_order": torch.tensor(order),
        }

    def _pixels(self, frames_nhwc: np.ndarray) -> Tensor:
        """Bytes `[n, size, size, 3]` to `[n, 3, size, size]`, normalised."""
        pixels = torch.from_numpy(frames_nhwc).permute(0, 3, 1, 2)
        return pixels.float().div(255 * self._std).sub(self._mean / self._std)


def packed_sounds(prepared: Sequence[Tensor]) -> Tensor:
    """Prepared sounds as one tensor: waveforms padded, `[sounds, longest]`; log-mel windows in a row."""
    if prepared[0].ndim == 1:
        return nn.utils.rnn.pad_sequence(list(prepared), batch_first=True)
    return torch.cat(list(prepared))


def _image(processor: Any, image: np.ndarray) -> np.ndarray:
    """The image as large as its processor makes it, still in bytes: what it does later changes no size."""
    resized = processor([_channels_first(image)], **_SIZE_ALONE, return_tensors="pt")["pixel_values"]
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def _frame(processor: Any, frame: np.ndarray) -> np.ndarray:
    """As `_image`, of a video's frame."""
    return np.ascontiguousarray(_frames(processor, frame[None], **_SIZE_ALONE)[0].permute(1, 2, 0).numpy())


def _frames(processor: Any, frames_nhwc: np.ndarray, **options: Any) -> Tensor:
    """`[frames, 3, size, size]` of a video's frames of any size."""
    given = [_channels_first(frames_nhwc)]
    processed = processor(given, do_sample_frames=False, return_tensors="pt", **options)
    pixels: Tensor = processed["pixel_values_videos"][0]
    return pixels


def _channels_first(pixels: np.ndarray) -> Tensor:
    """From `[…, height, width, 3]` to `[…, 3, height, width]`."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).movedim(-1, -3)


class _Distinct:
    """Arrays in order of first sight, those that are the same or equal once."""

    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []
        self.notes: list[bool] = []
        self._places: dict[tuple[int, bool], int] = {}
        self._alike: dict[tuple[Any, ...], list[int]] = {}

    def add(self, array: np.ndarray, note: bool = True) -> int:
        """Return the place of the array, which is put at the end unless it is there with that note."""
        key = (id(array), note)
        if key not in self._places:
            self._places[key] = self._place(array, note)
        return self._places[key]

    def _place(self, array: np.ndarray, note: bool) -> int:
        # A clip that was shortened for each of its samples is another array each time.
        some = array.reshape(-1)[:: max(1, array.size // _COMPARED)].tobytes()
        alike = self._alike.setdefault((array.shape, note, some), [])
        for place in alike:
            if np.array_equal(self.arrays[place], array):
                return place
        alike.append(len(self.arrays))
        self.arrays.append(array)
        self.notes.append(note)
        return alike[-1]
