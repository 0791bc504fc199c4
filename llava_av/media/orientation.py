"""Display matrices: how a container says that its frames are turned or mirrored."""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import Type

__all__ = ["Orientation", "frame_orientation"]


@dataclass(frozen=True, kw_only=True)
class Orientation:
    """What makes a stored frame upright: first exchange rows and columns, then mirror."""

    transposed: bool = False
    """Whether height and width change places."""
    flipped_x: bool = False
    """Whether the result is mirrored left to right."""
    flipped_y: bool = False
    """Whether the result is mirrored top to bottom."""

    def apply(self, frame_hwc: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return the upright frame `[height, width, channels]`, as a view."""
        upright = frame_hwc.swapaxes(0, 1) if self.transposed else frame_hwc
        return upright[:: -1 if self.flipped_y else 1, :: -1 if self.flipped_x else 1]

    @property
    def mirrored(self) -> bool:
        """Whether no rotation alone has the same effect."""
        return self.transposed ^ self.flipped_x ^ self.flipped_y


def frame_orientation(frame: Any) -> Orientation:
    """Return the orientation of a decoded PyAV video frame, by its whole display matrix.

    A point (x, y) of the stored frame is shown at (a x + c y, b x + d y) (ISO/IEC 14496-12, track header).
    Frames are turned by multiples of 90 degrees, mirrored or not; another angle counts as the nearest one.
    """
    data = frame.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return Orientation()
    a, b, _, c, d = struct.unpack("=5i", bytes(data)[:20])
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(transposed=True, flipped_x=c < 0, flipped_y=b < 0)
    return Orientation(flipped_x=a < 0, flipped_y=d < 0)
