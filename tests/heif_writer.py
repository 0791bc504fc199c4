"""Writer of small HEIC files like those of phones, tiled and rotated, which no installed library writes.

Boxes follow ISO/IEC 23008-12 (HEIF) and 14496-15 (HEVC); FFmpeg's libx265 encodes the tiles.
"""

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

_START_CODE = b"\0\0\0\1"
_VPS, _SPS, _PPS = 32, 33, 34


def write_heic(
    path: Path,
    picture: npt.NDArray[np.uint8],
    *,
    tile: int | None = None,
    turns: int = 0,
    mirror: int | None = None,
    brand: bytes = b"heic",
) -> Path:
    """Write an image `[height, width, 3]`.

    Args:
        path: File to write.
        picture: Image as stored, before rotation and mirroring.
        tile: Side of the tiles of a grid, the last of which extend past the edge. None writes a single item.
        turns: Anticlockwise quarter turns for the reader (irot).
        mirror: Sides for the reader to swap (imir): 0 for top and bottom, 1 for left and right.
        brand: Major brand.
    """
    height, width = picture.shape[:2]
    side = tile or max(height, width)
    rows, columns = (-(-height // side), -(-width // side)) if tile else (1, 1)
    padded = np.pad(picture, ((0, rows * side - height), (0, columns * side - width), (0, 0)), mode="edge")
    pieces = [
        padded[row * side : (row + 1) * side, column * side : (column + 1) * side]
        for row in range(rows)
        for column in range(columns)
    ]
    coded = [_hevc(piece if tile else picture) for piece in pieces]
    turned = [_box(b"irot", bytes([turns]))] if turns else []
    turned += [_box(b"imir", bytes([mirror]))] if mirror is not None else []
    properties = [_hvcc(coded[0][0]), _ispe(*((side, side) if tile else (width, height))), *turned]
    items = [(number + 1, b"hvc1", data) for number, (_, data) in enumerate(coded)]
    links = {number: [1, 2, *([] if tile else range(3, 3 + len(turned)))] for number, _, _ in items}
    references = b""
    if tile:
        grid = len(items) + 1
        properties.append(_ispe(width, height))
        links[grid] = [len(properties), *range(3, 3 + len(turned))]
        references = _box(b"dimg", struct.pack(f">HH{grid - 1}H", grid, grid - 1, *range(1, grid)))
        items.append((grid, b"grid", struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)))
    path.write_bytes(_file(items, properties, links, references, brand))
    return path


def _file(
    items: list[tuple[int, bytes, bytes]],
    properties: list[bytes],
    links: dict[int, list[int]],
    references: bytes,
    brand: bytes,
) -> bytes:
    start = _box(b"ftyp", brand + struct.pack(">I", 0) + b"mif1" + b"heic")
    infe = [_full(b"infe", 2, struct.pack(">HH", number, 0) + kind + b"\0") for number, kind, _ in items]
    associations = b"".join(
        struct.pack(">HB", number, len(places)) + bytes(0x80 | place for place in places)
        for number, places in links.items()
    )

    def meta(first: int) -> bytes:
        extents, place = b"", first
        for number, _, data in items:
            extents += struct.pack(">HHHII", number, 0, 1, place, len(data))
            place += len(data)
        boxes = [
            _full(b"hdlr", 0, b"\0\0\0\0pict" + bytes(13)),
            _full(b"pitm", 0, struct.pack(">H", items[-1][0])),
            _full(b"iloc", 0, b"\x44\0" + struct.pack(">H", len(items)) + extents),
            _full(b"iinf", 0, struct.pack(">H", len(infe)) + b"".join(infe)),
            _box(
                b"iprp",
                _box(b"ipco", b"".join(properties))
                + _full(b"ipma", 0, struct.pack(">I", len(links)) + associations),
            ),
        ]
        return _full(b"meta", 0, b"".join([*boxes, _full(b"iref", 0, references) if references else b""]))

    header = start + meta(0)
    content = b"".join(data for _, _, data in items)
    return start + meta(len(header) + 8) + _box(b"mdat", content)


def _hevc(picture: npt.NDArray[np.uint8]) -> tuple[list[bytes], bytes]:
    """Return the parameter sets and the slices of an image, each with its length."""
    context: Any = av.CodecContext.create("libx265", "w")
    context.height, context.width = picture.shape[:2]
    context.pix_fmt, context.time_base = "yuv420p", Fraction(1)
    context.thread_count = 1
    context.options = {"x265-params": "log-level=none:qp=8:pools=1:frame-threads=1:info=0"}
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    packets = [*context.encode(frame.reformat(format="yuv420p")), *context.encode(None)]
    stream = b"".join(bytes(packet) for packet in packets)
    units = [unit.rstrip(b"\0") for unit in stream.replace(_START_CODE[1:], _START_CODE).split(_START_CODE)]
    units = [unit for unit in units if unit]
    sets = [unit for unit in units if unit[0] >> 1 in (_VPS, _SPS, _PPS)]
    slices = [unit for unit in units if unit[0] >> 1 < _VPS]
    return sets, b"".join(struct.pack(">I", len(unit)) + unit for unit in slices)


def _hvcc(sets: list[bytes]) -> bytes:
    sps = next(unit for unit in sets if unit[0] >> 1 == _SPS)
    profile = sps.replace(b"\0\0\3", b"\0\0")[3:15]
    header = b"\1" + profile + b"\xf0\0\xfc\xfd\xf8\xf8\0\0\x0f" + bytes([len(sets)])
    arrays = [struct.pack(">BHH", 0x80 | unit[0] >> 1, 1, len(unit)) + unit for unit in sets]
    return _box(b"hvcC", header + b"".join(arrays))


def _ispe(width: int, height: int) -> bytes:
    return _full(b"ispe", 0, struct.pack(">II", width, height))


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def _full(kind: bytes, version: int, content: bytes) -> bytes:
    return _box(kind, bytes([version, 0, 0, 0]) + content)
