"""Still images as arrays: upright as their EXIF data says, as a square or at a size of their own."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from av.video.reformatter import Interpolation
from PIL import Image, UnidentifiedImageError

from llava_av.media.container import MediaError, open_media, probe, video_stream

__all__ = ["PictureSizes", "image_size", "read_image"]

Picture = npt.NDArray[np.uint8]

_ORIENTATION = 0x0112
# What turns the picture as stored into the upright one, by the tag's value (TIFF 6.0, page 36).
_UPRIGHT: Mapping[int, Callable[[Picture], Picture]] = MappingProxyType(
    {
        1: lambda picture: picture,
        2: lambda picture: picture[:, ::-1],
        3: lambda picture: picture[::-1, ::-1],
        4: lambda picture: picture[::-1],
        5: lambda picture: picture.swapaxes(0, 1),
        6: lambda picture: picture[::-1].swapaxes(0, 1),
        7: lambda picture: picture[::-1, ::-1].swapaxes(0, 1),
        8: lambda picture: picture[:, ::-1].swapaxes(0, 1),
    }
)
_LYING = (5, 6, 7, 8)
"""Values with which height and width change places."""


@dataclass(frozen=True, kw_only=True)
class PictureSizes:
    """Which size the pictures of files get; by default all are resized to a square while they are decoded."""

    image_pixels: int | None = None
    """Pixels up to which an image has its own size and shape, before `image`."""
    image: Callable[[Picture], Picture] | None = None
    """From an image of any size to the one that is kept, `[height, width, 3]` both."""
    frame: Callable[[Picture], Picture] | None = None
    """From a video's frame of any size to the square that is kept, `[height, width, 3]` both."""


def image_size(path: Path | str, *, most_pixels: float) -> tuple[int, int]:
    """Height and width that `read_image` gives a still image, by the file's headers alone.

    Args:
        path: a still image.
        most_pixels: a picture of more is made smaller, without changing its shape.

    Raises:
        MediaError: the file cannot be opened, or holds no picture.
    """
    info = probe(path)
    if not info.width:
        raise MediaError(path, "has no picture track")
    lies = _orientation(path) in _LYING
    height, width = (info.width, info.height) if lies else (info.height, info.width)
    scale = min(1.0, math.sqrt(most_pixels / (height * width)))
    return max(1, int(height * scale)), max(1, int(width * scale))


def read_image(path: Path | str, *, side: int | None = None, most_pixels: float | None = None) -> Picture:
    """A still image (or a video's first frame) as RGB `[height, width, 3]`, upright.

    Args:
        path: a file with a picture.
        side: of the square that it is resized to, without regard to its shape, in pixels.
        most_pixels: instead of `side`, for a picture that keeps its shape: see `image_size`.

    Raises:
        MediaError: the file holds no picture that decodes.
        ValueError: both or neither of `side` and `most_pixels`.
    """
    if (side is None) == (most_pixels is None):
        raise ValueError(f"give exactly one of side and most_pixels, not {side} and {most_pixels}")
    size = (side, side) if side else image_size(path, most_pixels=most_pixels or 0)
    orientation = _orientation(path)
    with open_media(path) as container:
        stream = video_stream(container)
        if stream is None:
            raise MediaError(path, "has no picture track")
        frame = next(container.decode(stream), None)
        if frame is None:
            raise MediaError(path, "holds no picture that decodes")
        # no EXIF data stands in a video, whose container says how its pictures are turned
        turns = 0 if orientation else round(frame.rotation / 90)
        height, width = size[::-1] if orientation in _LYING else size
        scaled = frame.reformat(
            width, height, format="rgb24", interpolation=Interpolation.BILINEAR, threads=1
        )
        picture = np.rot90(scaled.to_ndarray(), turns)
    return np.ascontiguousarray(_UPRIGHT[orientation or 1](picture))


def _orientation(path: Path | str) -> int | None:
    """The value of the EXIF tag; None without one."""
    try:
        with Image.open(path) as image:
            value = image.getexif().get(_ORIENTATION)
    # what else can be wrong with the file is told by whoever decodes it
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return None
    return value if value in _UPRIGHT else None
