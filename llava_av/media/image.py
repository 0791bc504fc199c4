"""Still images as upright arrays, resized to a square or with their own shape."""

import math
from pathlib import Path

from llava_av.media.clip import ImageArray
from llava_av.media.decode import read_frames
from llava_av.media.image_decoding import (
    open_image,
    orientation,
    rgb_array,
    upright,
    upright_size,
)
from llava_av.media.image_formats import image_format
from llava_av.media.image_scaling import scaled

__all__ = ["image_size", "read_image", "size_within"]


def image_size(path: Path | str, *, max_pixels: float) -> tuple[int, int]:
    """Return the height and width of the image that `read_image` returns, from its headers only.

    Args:
        path: Still image or animation; the first frame of a video is decoded.
        max_pixels: An image with more pixels is scaled down and keeps its shape.

    Raises:
        MediaError: The file cannot be opened, or contains no image.
    """
    if image_format(path) is None:
        height, width = _first_frame(path).shape[:2]
    else:
        with open_image(path) as image:
            height, width = upright_size(image, orientation(image))
    return size_within(height, width, max_pixels)


def read_image(path: Path | str, *, side: int | None = None, max_pixels: float | None = None) -> ImageArray:
    """Return an image (or the first frame of an animation or a video) as RGB `[height, width, 3]`, upright.

    Args:
        path: Still image, animation or video.
        side: Side of the square that the image is stretched to, in pixels.
        max_pixels: Instead of `side`, for an image that keeps its shape; see `image_size`.

    Raises:
        MediaError: The file contains no image that decodes.
        ValueError: Both or neither of `side` and `max_pixels` are given.
    """
    if (side is None) == (max_pixels is None):
        raise ValueError(f"give exactly one of side and max_pixels, not {side} and {max_pixels}")
    stored, turn = _as_stored(path)
    height, width = stored.shape[:2]
    size = (side, side) if side else size_within(height, width, max_pixels or 0)
    return upright(scaled(stored, *size), turn)


def _as_stored(path: Path | str) -> tuple[ImageArray, int]:
    """Return the image as stored and its orientation; the decoder's copy is freed on return."""
    if image_format(path) is None:
        return _first_frame(path), 1
    with open_image(path) as image:
        stored = rgb_array(image)
        return stored, orientation(image)


def _first_frame(path: Path | str) -> ImageArray:
    frame: ImageArray = read_frames(path, [0.0], size=1, resize=lambda frame: frame)[0]
    return frame


def size_within(height: int, width: int, max_pixels: float) -> tuple[int, int]:
    """Return the height and width of an image that is scaled down to at most `max_pixels`."""
    scale = min(1.0, math.sqrt(max_pixels / (height * width)))
    return max(1, int(height * scale)), max(1, int(width * scale))
