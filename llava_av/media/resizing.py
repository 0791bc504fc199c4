"""Resizing of decoded images and frames that a model requires; needs no decoder."""

from collections.abc import Callable
from dataclasses import dataclass

from llava_av.media.clip import ImageArray

__all__ = ["ImageResizing"]


@dataclass(frozen=True, kw_only=True)
class ImageResizing:
    """Resizing of images and frames; by default, decoding makes all of them squares."""

    max_image_pixels: int | None = None
    """Most pixels of an image that keeps its shape, before `resize_image`; None: images become squares."""
    resize_image: Callable[[ImageArray], ImageArray] | None = None
    """Resizes an image of any size, `[height, width, 3]` to `[height, width, 3]`."""
    resize_frame: Callable[[ImageArray], ImageArray] | None = None
    """Resizes a video's frame of any size to a square, `[height, width, 3]` to `[size, size, 3]`."""
