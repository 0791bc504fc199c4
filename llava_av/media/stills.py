"""Still images and animations, decoded by Pillow: one entry point for checks, training, evaluation and chat.

`open_image` opens a file by its content (`image_formats`) and refuses what cannot be decoded whole
(`image_limits`); `rgb_array` decodes. Whatever a decoder raises becomes a `MediaError`, so that a commit
refuses what training could not decode, for the same reason.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO

import numpy as np
import numpy.typing as npt
from pi_heif.as_plugin import HeifImageFile
from PIL import Image
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import jpeg_factory
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from llava_av.media.image_formats import image_format
from llava_av.media.image_limits import require_usable
from llava_av.media.info import MediaError

__all__ = [
    "Picture",
    "open_image",
    "orientation",
    "rgb_array",
    "upright",
    "upright_size",
]

Picture = npt.NDArray[np.uint8]

# Not by Image.open: it tries formats that run other programs, and has a limit that any library may change.
_OPENERS: Mapping[str, Callable[[IO[bytes], str], ImageFile]] = MappingProxyType(
    {
        "JPEG": jpeg_factory,
        "PNG": PngImageFile,
        "GIF": GifImageFile,
        "BMP": BmpImageFile,
        "TIFF": TiffImageFile,
        "PPM": PpmImageFile,
        "WebP": WebPImageFile,
        "AVIF": AvifImageFile,
        "HEIC": HeifImageFile,
        "JPEG 2000": Jpeg2KImageFile,
    }
)
_STRIP_PIXELS = 2**20
_ORIENTATION_TAG = 0x0112
# What turns an image as stored into the upright one, by the tag's value (TIFF 6.0, page 36).
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


@contextlib.contextmanager
def open_image(path: Path | str) -> Iterator[ImageFile]:
    """Open a still image or an animation; what its decoder raises in the block becomes a `MediaError`.

    Raises:
        MediaError: not an image, larger than the limits, incomplete, damaged or of an unsupported kind.
    """
    path = Path(path)
    name = image_format(path)
    if name is None:
        raise MediaError(path, "is not an image of a format that is supported")
    try:
        with path.open("rb") as file:
            image = _OPENERS[name](file, str(path))
            require_usable(path, name, image)
            yield image
    except MediaError:
        raise
    except Image.DecompressionBombError as error:
        raise MediaError(path, f"{_detail(error)}; make the image smaller") from None
    except MemoryError:
        raise MediaError(path, f"is a {name} image that needs more memory than there is") from None
    # Decoders raise nearly every kind of error over damaged content, struct.error and KeyError among them.
    except Exception as error:
        raise MediaError(path, _why(name, error)) from None


def _why(name: str, error: Exception) -> str:
    detail = _detail(error)
    if isinstance(error, EOFError) or "truncated" in detail.lower():
        return f"is an incomplete {name} image ({detail}); copy it again"
    return (
        f"is a {name} image that does not decode ({detail}): it is incomplete, damaged or of an unsupported "
        "kind; copy it again, or convert it to PNG"
    )


def _detail(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def orientation(image: ImageFile) -> int:
    """Return the value of EXIF's orientation, 1 to 8; 1 where there is none or it cannot be read.

    Decode an image before this call: looking for EXIF data hides damage.
    """
    if isinstance(image, TiffImageFile):
        return 1  # Pillow turns TIFF images itself while it loads them
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    # Malformed EXIF data raises whatever its parser meets: the image is as good without it.
    except Exception:
        return 1
    return value if value in range(1, 9) else 1


def upright(picture: Picture, value: int) -> Picture:
    """Return an image as stored turned and mirrored as `orientation` says."""
    return np.ascontiguousarray(_UPRIGHT[value](picture))


def upright_size(image: ImageFile, value: int) -> tuple[int, int]:
    """Return height and width of the upright image."""
    width, height = image.size
    return (width, height) if value in _LYING else (height, width)


def rgb_array(image: ImageFile) -> Picture:
    """Decode the current frame of an opened image as RGB `[height, width, 3]`, as it is stored.

    Colours are those of Pillow's `convert("RGB")`, as transformers reads images: transparency is dropped, not
    blended. Grey of 16 bits keeps its upper 8, which Pillow would clip. Strips bound the memory used.
    """
    width, height = image.size
    image.load()
    if image.size != (width, height):
        raise ValueError(f"its header states {width}x{height} pixels, not {image.size[0]}x{image.size[1]}")
    array = np.empty((height, width, 3), np.uint8)
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        array[top : top + strip.height] = _rgb_strip(strip, image.format == "PPM")
    return array


def _rgb_strip(strip: Image.Image, grey_is_16_bits: bool) -> Picture:
    if strip.mode.startswith("I;16") or (strip.mode == "I" and grey_is_16_bits):
        upper = (np.asarray(strip).astype(np.uint32) >> 8).astype(np.uint8)
        return np.broadcast_to(upper[..., None], (*upper.shape, 3))
    if strip.mode == "P":
        strip.info.pop("transparency", None)  # it would only warn that it is dropped
    return np.asarray(strip.convert("RGB"), dtype=np.uint8)
