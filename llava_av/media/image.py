"""Still images as arrays: upright, as a square or at a size of their own."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llava_av.media.decode import read_frames
from llava_av.media.image_formats import image_format
from llava_av.media.scaling import scaled
from llava_av.media.stills import (
    Picture,
    open_image,
    orientation,
    rgb_array,
    upright,
    upright_size,
)

__all__ = ["ImageResizing", "image_size", "read_image"]


@dataclass(frozen=True, kw_only=True)
class ImageResizing:
    """Sizes that images and frames get; by default all are resized to a square while they are decoded."""

    max_image_pixels: int | None = None
    """Pixels up to which an image has its own size and shape, before `resize_image`."""
    resize_image: Callable[[Picture], Picture] | None = None
    """From an image of any size to the one that is kept, `[height, width, 3]` both."""
    resize_frame: Callable[[Picture], Picture] | None = None
    """From a video's frame of any size to the square that is kept, `[height, width, 3]` both."""


def image_size(path: Path | str, *, max_pixels: float) -> tuple[int, int]:
    """Return the height and width that `read_image` gives an image, by its headers alone.

    Args:
        path: a still image or an animation; of a video the first frame is decoded.
        max_pixels: an image of more is made smaller, without changing its shape.

    Raises:
        MediaError: the file cannot be opened, or holds no image.
    """
    if image_format(path) is None:
        height, width = _first_frame(path).shape[:2]
    else:
        with open_image(path) as image:
            height, width = upright_size(image, orientation(image))
    return _within(height, width, max_pixels)


def read_image(path: Path | str, *, side: int | None = None, max_pixels: float | None = None) -> Picture:
    """Return an image (or the first frame of an animation or a video) as RGB `[height, width, 3]`, upright.

    Args:
        path: a still image, an animation or a video.
        side: of the square that it is resized to, without regard to its shape, in pixels.
        max_pixels: instead of `side`, for an image that keeps its shape: see `image_size`.

    Raises:
        MediaError: the file holds no image that decodes.
        ValueError: both or neither of `side` and `max_pixels`.
    """
    if (side is None) == (max_pixels is None):
        raise ValueError(f"give exactly one of side and max_pixels, not {side} and {max_pixels}")
    stored, turn = _as_stored(path)
    height, width = stored.shape[:2]
    size = (side, side) if side else _within(height, width, max_pixels or 0)
    return upright(scaled(stored, *size), turn)


def _as_stored(path: Path | str) -> tuple[Picture, int]:
    """Return the image and its orientation; the decoder's copy does not outlive the call."""
    if image_format(path) is None:
        return _first_frame(path), 1
    with open_image(path) as image:
        stored = rgb_array(image)
        return stored, orientation(image)


def _first_frame(path: Path | str) -> Picture:
    frame: Picture = read_frames(path, [0.0], size=1, resize=lambda frame: frame)[0]
    return frame


def _within(height: int, width: int, max_pixels: float) -> tuple[int, int]:
    scale = min(1.0, math.sqrt(max_pixels / (height * width)))
    return max(1, int(height * scale)), max(1, int(width * scale))
