"""Refusal of images that are too large or incomplete, before they are decoded.

Decoders accept some incomplete files and return the remaining part as the image. Only the structure of such
a file shows that something is missing.
"""

import io
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from PIL.ImageFile import ImageFile

from llava_av.media.info import MediaError

if TYPE_CHECKING:
    from PIL.TiffImagePlugin import TiffImageFile

__all__ = ["is_animation", "pixel_limit", "require_usable"]

_MOST_PIXELS = 2**27
"""Phones take images of 108 million pixels; decoding one needs 0.9 GiB."""
_SEVERAL_COPIES = ("WebP", "AVIF", "HEIC", "JPEG 2000")
"""Formats whose decoders keep several copies of an image in memory."""
_MOST_PIXELS_IN_COPIES = 50_000_000
"""Phones take HEIC images of 48.8 million pixels; at the limit JPEG 2000 needs 0.9 GiB, the others less."""
_LONGEST_SIDE = 65_535
_MOST_PIXELS_OF_ANIMATION = 2**31
_LEAST_PIXELS_OF_FRAME = 2**15
"""Smaller frames count as this many pixels: opening a frame takes as long as decoding that many."""
_ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")
_TILE_TAGS = (322, 323)
_REDUCED_TAG, _DNG_TAG = 254, 50_706
_END_OF_CODESTREAM = b"\xff\xd9"
_READ_BYTES = 1 << 20


def pixel_limit(name: str) -> int:
    """Return the largest number of pixels that an image of a format may have."""
    return _MOST_PIXELS_IN_COPIES if name in _SEVERAL_COPIES else _MOST_PIXELS


def is_animation(image: ImageFile) -> bool:
    """Check whether the frames of an opened image follow each other in time; pages and views do not."""
    return image.format in _ANIMATED and getattr(image, "n_frames", 1) > 1


def require_usable(path: Path | str, name: str, file: IO[bytes], image: ImageFile) -> None:
    """Refuse an image whose header or structure shows that it cannot be decoded completely.

    Args:
        path: Path for messages.
        name: Format.
        file: The file; its position is kept.
        image: The image that the decoder opened.

    Raises:
        MediaError: The image is too large, has no pixels, or is a camera's raw file.
        EOFError: Part of the file is missing.
    """
    _require_size(path, name, image)
    if name == "TIFF":
        _require_plain_tiff(path, cast("TiffImageFile", image))
    # Without the main image, libheif returns another one, such as a tile.
    if name == "HEIC" and not image.info.get("primary"):
        raise EOFError("its main image is missing")
    if require_whole := _REQUIRE_WHOLE.get(name):
        before = file.tell()
        file.seek(0)
        require_whole(file)
        file.seek(before)


def _require_size(path: Path | str, name: str, image: ImageFile) -> None:
    width, height = image.size
    limit, frames = pixel_limit(name), getattr(image, "n_frames", 1)
    size = f"is a {name} image of {width}x{height} pixels"
    if width < 1 or height < 1:
        raise MediaError(path, f"{size} and thus empty; remove it")
    if max(width, height) > _LONGEST_SIDE or width * height > limit:
        most = f"{limit} pixels and {_LONGEST_SIDE} per side"
        raise MediaError(path, f"{size}, more than the limit of {most}; scale it down")
    pixels = max(width * height, _LEAST_PIXELS_OF_FRAME)
    if is_animation(image) and frames * pixels > _MOST_PIXELS_OF_ANIMATION:
        most = f"{_MOST_PIXELS_OF_ANIMATION // pixels} frames of that size"
        raise MediaError(path, f"{size} in {frames} frames, more than the limit of {most}; scale it down")


def _require_plain_tiff(path: Path | str, image: "TiffImageFile") -> None:
    if int(image.tag_v2.get(_REDUCED_TAG, 0)) & 1 or _DNG_TAG in image.tag_v2:
        raise MediaError(path, "is a camera's raw file with only a small readable preview; export it as JPEG")
    width, height = (int(image.tag_v2.get(tag, 0)) for tag in _TILE_TAGS)
    if width * height > _MOST_PIXELS:
        raise MediaError(path, f"is a TIFF image in tiles of {width}x{height} pixels; convert it to PNG")


def _require_whole_codestream(file: IO[bytes]) -> None:
    """Refuse a JPEG 2000 without the end of its codestream: OpenJPEG leaves missing tiles black."""
    last = b""
    while content := file.read(_READ_BYTES):
        # These bytes cannot occur inside a tile (ISO/IEC 15444-1, B.10.1).
        if _END_OF_CODESTREAM in last + content:
            return
        last = content[-1:]
    raise EOFError("the end of its codestream is missing")


def _require_whole_gif(file: IO[bytes]) -> None:
    """Refuse a GIF that ends inside a block, or after the extension that announces a frame.

    Pillow treats the end of the file as the end of the animation (GIF89a, section 15 and following).
    """
    file.seek(_colours(file.read(13)[10]), io.SEEK_CUR)
    announced = False
    while (kind := file.read(1)) in (b"!", b","):
        if kind == b",":
            # The colour table, and the byte before the pixels.
            file.seek(_colours(file.read(9)[8]) + 1, io.SEEK_CUR)
            announced = False
        else:
            announced |= file.read(1) == b"\xf9"
        while (size := file.read(1)) != b"\0":
            if not size or len(file.read(size[0])) < size[0]:
                raise EOFError("it ends inside a block")
    if not kind and announced:
        raise EOFError("it ends before a frame that it announces")


def _colours(flags: int) -> int:
    """Return the size of a colour table in bytes."""
    return 3 * 2 ** (flags % 8 + 1) if flags & 0x80 else 0


_REQUIRE_WHOLE = {"GIF": _require_whole_gif, "JPEG 2000": _require_whole_codestream}
