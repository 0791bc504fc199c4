"""Display matrices, by which a container states that its frames are rotated or mirrored."""

import struct
from dataclasses import dataclass
from typing import Any

from av.sidedata.sidedata import Type

from llava_av.media.clip import ImageArray


@dataclass(frozen=True, kw_only=True)
class Orientation:
    """Operations that turn a stored frame upright: first transpose, then flip."""

    transposed: bool = False
    """Exchange rows and columns."""
    flipped_x: bool = False
    """Mirror the result left to right."""
    flipped_y: bool = False
    """Mirror the result top to bottom."""

    def apply(self, frame_hwc: ImageArray) -> ImageArray:
        """Return the upright frame `[height, width, channels]`, as a view."""
        upright = frame_hwc.swapaxes(0, 1) if self.transposed else frame_hwc
        return upright[:: -1 if self.flipped_y else 1, :: -1 if self.flipped_x else 1]

    @property
    def mirrored(self) -> bool:
        """True if no rotation alone has the same effect."""
        return self.transposed ^ self.flipped_x ^ self.flipped_y


def frame_orientation(frame: Any) -> Orientation:
    """Return the orientation of a decoded PyAV video frame from its display matrix.

    A point (x, y) of the stored frame is displayed at (a x + c y, b x + d y): ISO/IEC 14496-12, track header.
    Frames are rotated by multiples of 90 degrees, mirrored or not; another angle counts as the nearest one.
    """
    data = frame.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return Orientation()
    a, b, _, c, d = struct.unpack("=5i", bytes(data)[:20])
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(transposed=True, flipped_x=c < 0, flipped_y=b < 0)
    return Orientation(flipped_x=a < 0, flipped_y=d < 0)
