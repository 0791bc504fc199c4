"""Decoding of still images and animations by Pillow, shared by checks, training, evaluation and chat.

`open_image` opens a file by its content (`image_formats`) and refuses images that cannot be decoded
completely (`image_limits`); `rgb_array` decodes. Every error of a decoder becomes a `MediaError`, so a commit
refuses a file for the same reason for which training could not decode it.
"""

import contextlib
import importlib
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, cast

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from llava_av.media.clip import ImageArray
from llava_av.media.image_formats import open_with_format
from llava_av.media.image_limits import require_usable
from llava_av.media.info import MediaError, UnreadableError

__all__ = [
    "load_frame",
    "open_image",
    "orientation",
    "rgb_array",
    "upright",
    "upright_size",
]

# Not Image.open, which tries formats that run other programs and has a limit that any library may change.
# Only the decoders of formats that occur are loaded: all together take a tenth of a second.
_OPENERS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "JPEG": ("PIL.JpegImagePlugin", "jpeg_factory"),
        "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
        "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
        "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
        "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
        "PPM": ("PIL.PpmImagePlugin", "PpmImageFile"),
        "WebP": ("PIL.WebPImagePlugin", "WebPImageFile"),
        "AVIF": ("PIL.AvifImagePlugin", "AvifImageFile"),
        "HEIC": ("pi_heif.as_plugin", "HeifImageFile"),
        "JPEG 2000": ("PIL.Jpeg2KImagePlugin", "Jpeg2KImageFile"),
    }
)
_STRIP_PIXELS = 2**20
_ORIENTATION_TAG = 0x0112
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_METADATA = (b"Raw profile type exif", b"XML:com.adobe.xmp")
"""Keywords of the text chunks that Pillow reads an orientation from."""
# Operations that turn a stored image upright, by the tag's value (TIFF 6.0, page 36).
_UPRIGHT: Mapping[int, Callable[[ImageArray], ImageArray]] = MappingProxyType(
    {
        1: lambda image: image,
        2: lambda image: image[:, ::-1],
        3: lambda image: image[::-1, ::-1],
        4: lambda image: image[::-1],
        5: lambda image: image.swapaxes(0, 1),
        6: lambda image: image[::-1].swapaxes(0, 1),
        7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
        8: lambda image: image[:, ::-1].swapaxes(0, 1),
    }
)
_TRANSPOSED = (5, 6, 7, 8)
"""Values that exchange height and width."""


@contextlib.contextmanager
def open_image(path: Path | str, content: bytes | None = None) -> Iterator[ImageFile]:
    """Open a still image or an animation; errors of its decoder inside the block become `MediaError`.

    Args:
        path: The file.
        content: Its content, if that was read already.

    Raises:
        MediaError: The file is not a supported image, exceeds the limits, or is incomplete or damaged.
    """
    file, name = open_with_format(path, content)
    if name is None:
        file.close()
        raise MediaError(path, "is not an image of a supported format; convert it to PNG or JPEG")
    try:
        with file:
            # Pillow would map the file of this name instead of reading the content.
            image = _opener(name)(file, str(path) if content is None else "")
            require_usable(path, name, file, image)
            yield image
    except MediaError:
        raise
    except Image.DecompressionBombError as error:
        raise MediaError(path, f"{_detail(error)}; scale the image down") from None
    except MemoryError:
        reason = f"is a {name} image that needs more memory than is available; scale it down"
        raise UnreadableError(path, reason) from None
    # Decoders raise nearly any type of error for damaged content, including struct.error and KeyError.
    except Exception as error:
        raise MediaError(path, _failure_reason(name, error)) from None


def _opener(name: str) -> Callable[[IO[bytes], str], ImageFile]:
    """Return the function that opens a file of a format."""
    module, function = _OPENERS[name]
    opener: Callable[[IO[bytes], str], ImageFile] = getattr(importlib.import_module(module), function)
    return opener


def _failure_reason(name: str, error: Exception) -> str:
    detail = _detail(error)
    if isinstance(error, EOFError) or "truncated" in detail.lower():
        return f"is an incomplete {name} image ({detail}); copy it again"
    return (
        f"is a {name} image that does not decode ({detail}): it is incomplete, damaged or of an unsupported "
        "variant; copy it again, or convert it to PNG"
    )


def _detail(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def orientation(image: ImageFile) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if it is absent or unreadable.

    To find damage, decode the image before this call, which may decode it and ignores all errors.
    """
    if image.format == "TIFF":
        return 1  # Pillow itself turns TIFF images upright while it loads them
    try:
        value = _exif(image).get(_ORIENTATION_TAG, 1)
    # Malformed EXIF data raises any type of error, and the image is usable without it.
    except Exception:
        return 1
    return value if value in range(1, 9) else 1


def _exif(image: ImageFile) -> Image.Exif:
    is_undecoded_png = image.format == "PNG" and image.tile and image.fp is not None
    if is_undecoded_png and not _has_metadata_after_pixels(cast(IO[bytes], image.fp)):
        # The method of a PNG would first decode it.
        return Image.Image.getexif(image)
    return image.getexif()


def _has_metadata_after_pixels(file: IO[bytes]) -> bool:
    """Check whether a PNG has EXIF data or XMP after its first pixels; the file's position is kept."""
    before, at, has_pixels = file.tell(), len(_PNG_SIGNATURE), False
    try:
        while len(head := _read_at(file, at, 8)) == 8:
            size, kind = struct.unpack(">I4s", head)
            has_pixels |= kind == b"IDAT"
            is_text = has_pixels and kind in (b"tEXt", b"zTXt", b"iTXt")
            if (has_pixels and kind == b"eXIf") or (is_text and file.read(21).startswith(_PNG_METADATA)):
                return True
            at += 12 + size
    finally:
        file.seek(before)
    return False


def _read_at(file: IO[bytes], at: int, size: int) -> bytes:
    file.seek(at)
    return file.read(size)


def upright(image: ImageArray, value: int) -> ImageArray:
    """Turn a stored image upright; `value` is its `orientation`."""
    return np.ascontiguousarray(_UPRIGHT[value](image))


def upright_size(image: ImageFile, value: int) -> tuple[int, int]:
    """Return height and width of the upright image."""
    width, height = image.size
    return (width, height) if value in _TRANSPOSED else (height, width)


def load_frame(image: ImageFile) -> None:
    """Decode the current frame of an opened image, without a conversion to RGB."""
    width, height = image.size
    image.load()
    if image.size != (width, height):
        raise ValueError(f"its header states {width}x{height} pixels, not {image.size[0]}x{image.size[1]}")


def rgb_array(image: ImageFile) -> ImageArray:
    """Decode the current frame of an opened image as RGB `[height, width, 3]`, not yet upright.

    Colours are those of Pillow's `convert("RGB")`, which transformers uses: transparency is dropped, not
    blended. 16-bit grey keeps its upper 8 bits, where Pillow would clip. Strips bound the memory.
    """
    load_frame(image)
    width, height = image.size
    array = np.empty((height, width, 3), np.uint8)
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        strip = image if rows >= height else image.crop((0, top, width, min(top + rows, height)))
        array[top : top + strip.height] = _rgb_strip(strip, image.format == "PPM")
    return array


def _rgb_strip(strip: Image.Image, grey_is_16_bits: bool) -> ImageArray:
    if strip.mode.startswith("I;16") or (strip.mode == "I" and grey_is_16_bits):
        upper = (np.asarray(strip).astype(np.uint32) >> 8).astype(np.uint8)
        return np.broadcast_to(upper[..., None], (*upper.shape, 3))
    if strip.mode == "P" and "transparency" in strip.info:
        strip = strip.copy()
        del strip.info["transparency"]  # avoids Pillow's warning that it is dropped
    return np.asarray(strip.convert("RGB"), dtype=np.uint8)
