"""Media files that a page embeds, within a limit on their size."""

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from llava_av.report.labels import file_size

__all__ = ["Media", "base64_characters", "embedded_media", "reasons_left_out"]

_FORMATS = {
    ".mp4": ("video", "video/mp4"),
    ".m4v": ("video", "video/mp4"),
    ".mov": ("video", "video/mp4"),
    ".webm": ("video", "video/webm"),
    ".mp3": ("audio", "audio/mpeg"),
    ".m4a": ("audio", "audio/mp4"),
    ".wav": ("audio", "audio/wav"),
    ".flac": ("audio", "audio/flac"),
    ".ogg": ("audio", "audio/ogg"),
    ".jpg": ("image", "image/jpeg"),
    ".jpeg": ("image", "image/jpeg"),
    ".png": ("image", "image/png"),
    ".webp": ("image", "image/webp"),
}
_SMALL_BYTES = 100_000
"""Clips of fewer bytes are shown without smoothing; those of the demonstration are 64 pixels wide."""


@dataclass(frozen=True, kw_only=True)
class Media:
    """A media file that the page embeds."""

    element: str
    """`video`, `audio` or `image`."""
    uri: str
    """`data:` URI with the content of the file."""
    pixelated: bool


def base64_characters(size: int) -> int:
    """Return the length of some bytes in base64."""
    return 4 * math.ceil(size / 3)


def reasons_left_out(sizes: Mapping[str, int], max_bytes: int) -> dict[str, str]:
    """Return by path why a file is not embedded; empty if it is.

    Smaller files are embedded first, so that a few large files do not displace all others.

    Args:
        sizes: Size of each file by its path.
        max_bytes: Maximum base64 characters of all media together.
    """
    reasons: dict[str, str] = {}
    room = max_bytes
    for name, size in sorted(sizes.items(), key=lambda item: (item[1], item[0])):
        suffix, needed = _suffix(name), base64_characters(size)
        if suffix not in _FORMATS:
            reasons[name] = f"browsers do not support {suffix or 'such'} files"
        elif needed > room:
            reasons[name] = (
                f"its size of {file_size(size)} exceeds the rest of the {file_size(max_bytes)} for all media"
            )
        else:
            room -= needed
            reasons[name] = ""
    return reasons


def embedded_media(path: Path) -> Media:
    """Return a file, whose suffix has a known format, for embedding."""
    element, mime = _FORMATS[_suffix(path.name)]
    data = path.read_bytes()
    uri = f"data:{mime};base64,{base64.b64encode(data).decode()}"
    return Media(element=element, uri=uri, pixelated=len(data) < _SMALL_BYTES)


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()
