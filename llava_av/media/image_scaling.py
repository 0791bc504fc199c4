"""Resizing of images with the scaler that videos use."""

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from PIL import Image

from llava_av.media.clip import ImageArray

__all__ = ["scaled"]

# With larger factors swscale's filters become too long: it fails, or its colours are wrong.
_MAX_FACTOR = 64


def scaled(image: ImageArray, height: int, width: int) -> ImageArray:
    """Resize an RGB image to `[height, width, 3]`, bilinear; the aspect ratio may change."""
    if image.shape[:2] == (height, width):
        return image
    factors = [
        max(1, now // (_MAX_FACTOR * then))
        for now, then in zip(image.shape[:2], (height, width), strict=True)
    ]
    if max(factors) > 1:
        image = np.asarray(Image.fromarray(image).reduce((factors[1], factors[0])))
    # Not from_ndarray, which copies an image twice.
    frame = VideoFrame.from_numpy_buffer(np.ascontiguousarray(image), format="rgb24")
    small = frame.reformat(width, height, format="rgb24", interpolation=Interpolation.BILINEAR, threads=1)
    return np.asarray(small.to_ndarray(), dtype=np.uint8)
