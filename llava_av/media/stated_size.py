"""Size in bytes that a file's header states, which distinguishes a truncated file from a complete one.

Sizes in bytes are exact where durations are not: Matroska states the duration of its longest track, ASF
rounds it up, and FFmpeg shortens the duration of a truncated WAV file. A writer that cannot seek back to the
header states no size or the maximum.
"""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

__all__ = ["stated_bytes"]

_HEAD_BYTES = 1 << 16
_MOST_CHUNKS = 1000
# Beyond the end of any file, but still a valid position to seek to.
_FAR = 1 << 60
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_ASF = b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
# Writers use 2**31 - 1, 2**32 - 1, or numbers that are smaller by a header or a block.
_PLACEHOLDERS = (2**31, 2**32)
_PLACEHOLDER_SLACK = 1 << 16


def stated_bytes(path: Path) -> int | None:
    """Return the size that the file's header states, or None if it states none."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        if head.startswith(_EBML):
            return _matroska(head)
        if head.startswith(_ASF):
            return _asf(head)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            size = struct.unpack_from("<I", head, 4)[0]
            return None if _is_placeholder(size) else size + 8
        if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
            return _data_end(file, 12, 2, _riff_chunk, ds64=head[28:36] if head[12:16] == b"ds64" else b"")
        if head[:4] == b"riff" and head[24:28] == b"wave":
            return _data_end(file, 40, 8, _w64_chunk)
        if head[:4] == b"caff":
            return _data_end(file, 8, 1, _caf_chunk)
        return _mp3(file, head)


def _is_placeholder(size: int) -> bool:
    return size <= 0 or any(abs(size - number) <= _PLACEHOLDER_SLACK for number in _PLACEHOLDERS)


def _matroska(head: bytes) -> int | None:
    """Return the end of the Segment after the EBML header (RFC 8794, section 4; RFC 9559, section 5.1)."""
    at, size = _ebml_size(head, len(_EBML))
    at += size or 0
    if size is None or head[at : at + len(_SEGMENT)] != _SEGMENT:
        return None
    at, size = _ebml_size(head, at + len(_SEGMENT))
    return None if size is None else at + size


def _ebml_size(head: bytes, at: int) -> tuple[int, int | None]:
    """Return the offset of an element's data, and its size if known; `at` is the offset of the size field."""
    first = head[at] if at < len(head) else 0
    if not first:
        return at, None
    length = 9 - first.bit_length()
    size = int.from_bytes(head[at : at + length]) & ((1 << 7 * length) - 1)
    return at + length, None if size == (1 << 7 * length) - 1 else size


def _asf(head: bytes) -> int | None:
    """Return the size in the File Properties Object (ASF specification, 3.2); None for a broadcast."""
    at = head.find(_ASF_FILE_PROPERTIES)
    if at < 0 or at + 92 > len(head):
        return None
    size, flags = struct.unpack_from("<Q", head, at + 40)[0], struct.unpack_from("<I", head, at + 88)[0]
    return None if flags & 1 or not size else int(size)


def _data_end(
    file: BinaryIO,
    at: int,
    align: int,
    chunk: Callable[[bytes], tuple[bytes, int, int]],
    ds64: bytes = b"",
) -> int | None:
    """Return the end of the first chunk named `data`; `chunk` returns name, header bytes and size."""
    for _ in range(_MOST_CHUNKS):
        file.seek(min(at, _FAR))
        header = file.read(24)
        if len(header) < 24:
            return None
        name, before, size = chunk(header)
        if name == b"data":
            size = int.from_bytes(ds64, "little") if ds64 else size
            return None if _is_placeholder(size) else at + before + size
        at += before + max(0, size + -size % align)
    return None


def _riff_chunk(header: bytes) -> tuple[bytes, int, int]:
    name, size = struct.unpack_from("<4sI", header)
    return name, 8, size


def _w64_chunk(header: bytes) -> tuple[bytes, int, int]:
    return header[:4], 24, struct.unpack_from("<Q", header, 16)[0] - 24


def _caf_chunk(header: bytes) -> tuple[bytes, int, int]:
    name, size = struct.unpack_from(">4sq", header)
    return name, 12, size


def _mp3(file: BinaryIO, head: bytes) -> int | None:
    """Return the end of the audio stated by a Xing header in the first frame after any ID3v2 tag."""
    start = 0
    if head[:3] == b"ID3" and len(head) > 10:
        start = 10 + sum(
            (byte & 127) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True)
        )
    file.seek(start)
    frame = file.read(256)
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if frame[:1] != b"\xff" or at < 0 or at + 16 > len(frame):
        return None
    flags, _, size = struct.unpack_from(">III", frame, at + 4)
    return start + size if flags & 3 == 3 else None
