"""Frames that a decoder need not decode: they are not displayed, and no other frame refers to them.

Each frame of H.264 and HEVC states whether others refer to it, and a decoder that skips such frames returns
the others unchanged. A frame is displayed from its time until that of the next frame. Only next frames that
precede it in the file are known, so a frame may be decoded that is not displayed, but not the reverse.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

__all__ = ["Skipping"]


class Skipping:
    """Choice of the frames of a video track that its decoder skips.

    Args:
        stream: The track; its decoder has one thread.
        seconds: Converts a presentation time in ticks to seconds.
    """

    def __init__(self, stream: Any, seconds: Callable[[int], float]) -> None:
        self._codec, self._seconds = stream.codec_context, seconds
        self._possible = _states_references(self._codec)
        self.start(())

    def start(self, wanted_s: Sequence[float]) -> None:
        """Expect the packets from a keyframe on, and the ascending times that are wanted from them."""
        self._wanted_s = wanted_s
        self._times_s: list[float] = []

    def prepare(self, packet: Any) -> None:
        """Make the decoder decode the frame of its next packet, or skip it."""
        if self._possible and packet.size:
            # An edit list discards frames, which are decoded but not displayed.
            needed = packet.is_discard or self._is_needed(packet.pts)
            self._codec.skip_frame = "DEFAULT" if needed else "NONREF"

    def _is_needed(self, ticks: int | None) -> bool:
        if ticks is None:
            # Times are counted then.
            self._possible = False
            return True
        time_s = self._seconds(ticks)
        place, last = bisect_right(self._times_s, time_s), len(self._times_s)
        if last - place > self._codec.reorder_depth:
            # From such a frame the decoder learns how many frames it has to hold back.
            self._possible = False
            return True
        start_s = time_s if place else -inf
        end_s = self._times_s[place] if place < last else inf
        insort(self._times_s, time_s)
        wanted = bisect_left(self._wanted_s, start_s)
        return wanted < len(self._wanted_s) and self._wanted_s[wanted] < end_s


def _states_references(codec: Any) -> bool:
    if codec.name == "hevc":
        # Frames of higher temporal layers may refer to a frame that its own layer does not need. The
        # configuration record has the number of layers: ISO/IEC 14496-15.
        record = codec.extradata or b""
        return len(record) > 21 and record[0] == 1 and record[21] >> 3 & 7 == 1
    return bool(codec.name == "h264")
