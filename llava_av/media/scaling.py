"""Images of any shape at another size, by the scaler that videos go through."""

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from PIL import Image

__all__ = ["scaled"]

# Beyond this swscale's filters get too long: it fails, or its colours are off.
_MOST_AT_ONCE = 64


def scaled(picture: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Return an RGB image `[height, width, 3]` at the given size, bilinear, without regard to its shape."""
    if picture.shape[:2] == (height, width):
        return picture
    factors = [
        max(1, now // (_MOST_AT_ONCE * then))
        for now, then in zip(picture.shape[:2], (height, width), strict=True)
    ]
    if max(factors) > 1:
        picture = np.asarray(Image.fromarray(picture).reduce((factors[1], factors[0])))
    # Not from_ndarray, which copies an image twice.
    frame = VideoFrame.from_numpy_buffer(np.ascontiguousarray(picture), format="rgb24")
    small = frame.reformat(width, height, format="rgb24", interpolation=Interpolation.BILINEAR, threads=1)
    return np.asarray(small.to_ndarray(), dtype=np.uint8)
