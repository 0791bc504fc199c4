"""Identification of image formats by the first bytes of a file, never by its name."""

import contextlib
import io
from pathlib import Path
from typing import IO

from llava_av.media.info import UnreadableError, require_bytes

__all__ = ["HEAD_BYTES", "content_format", "image_format", "open_with_format"]

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    *((b"P%d%c" % (kind, space), "PPM") for kind in range(1, 7) for space in b"\n "),
)
# "BM" alone is not sufficient: text may start with it.
_BMP_HEADER_BYTES = (12, 16, 40, 52, 56, 64, 108, 124)
_AVIF_BRANDS = (b"avif", b"avis")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
# Brands that name only the container; the compatible brands name the codec.
_HEIF_BRANDS = (b"mif1", b"mif2", b"msf1")
HEAD_BYTES = 256
"""Bytes at the start of a file that are sufficient to identify its format."""


def image_format(path: Path | str) -> str | None:
    """Return the name of a file's image format, such as `JPEG`; None for other content.

    Raises:
        MediaError: The file is missing, not a regular file, empty or unreadable.
    """
    file, name = open_with_format(path)
    file.close()
    return name


def open_with_format(path: Path | str, content: bytes | None = None) -> tuple[IO[bytes], str | None]:
    """Open a file and return it with its format, for the caller to close; errors as for `image_format`.

    Args:
        path: The file.
        content: Its content, if that was read already.
    """
    if content is not None:
        return io.BytesIO(content), content_format(content)
    path = Path(path)
    with contextlib.ExitStack() as opened:
        try:
            require_bytes(path)
            file = opened.enter_context(path.open("rb"))
            head = file.read(HEAD_BYTES)
            file.seek(0)
        except OSError as error:
            raise UnreadableError(path, f"cannot be read: {error.strerror or error}") from None
        opened.pop_all()
    return file, content_format(head)


def content_format(content: bytes) -> str | None:
    """Return the format of content, as `image_format` does; its first `HEAD_BYTES` are sufficient."""
    head = content[:HEAD_BYTES]
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp":
        return _heif_format(head)
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_BYTES:
        return "BMP"
    return next((name for signature, name in _SIGNATURES if head.startswith(signature)), None)


def _heif_format(head: bytes) -> str | None:
    """Return AVIF or HEIC by the brands of an ISO/IEC 14496-12 file; None for a video."""
    size = min(int.from_bytes(head[:4], "big"), len(head))
    major, compatible = head[8:12], [head[at : at + 4] for at in range(16, size, 4)]
    brands = [major, *compatible] if major in _HEIF_BRANDS else [major]
    if any(brand in _AVIF_BRANDS for brand in brands):
        return "AVIF"
    return "HEIC" if any(brand in (*_HEIC_BRANDS, *_HEIF_BRANDS) for brand in brands) else None
