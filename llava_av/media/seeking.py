"""Frames of a video track at given times, decoded from the keyframes that precede them.

Decoding must start at the last keyframe that is *presented* at or before the wanted time. A later one is
too late: frames that follow it in the file but precede it in time refer to the group of pictures before it
(open GOP). An earlier one costs the decoding of a whole group.

The index of an MP4 file lists decoding times, which precede presentation times if frames are reordered, but
FFmpeg seeks in it by presentation time. Therefore the presentation times of the keyframes in question are
read from their packets before decoding starts. Matroska indexes presentation times. FLV and AVI are indexed
and seek by decoding time, so there the first frame after a seek is compared with the wanted time, and
decoding starts at an earlier keyframe if it is too late.

Decoding continues without a seek if the packet of the next keyframe has been read already.

In H.264, a header states which frames no other frame refers to. The decoder skips those that are displayed at
none of the wanted times.
"""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import chain
from typing import Any, Generic, NamedTuple, TypeVar

from av.container import InputContainer
from av.video.frame import VideoFrame

from llava_av.media.skipping import Skipping
from llava_av.media.tracks import DECODING_TIMES, frames_of_packet

__all__ = ["FLOAT_S", "FrameReader", "displayed_at", "is_indexed"]

FLOAT_S = 1e-6
"""Tolerance with which 0.1 + 0.2 finds the frame at 0.3."""

_Frame = TypeVar("_Frame")
# Other containers find any packet before a time, not a keyframe.
_INDEXED = ("mov", "matroska", "avi", "flv")


class _Keyframe(NamedTuple):
    """Times of a keyframe in ticks of its track; all equal if only the index is known."""

    decoding: int
    presentation: int
    seek: int
    """Time by which FFmpeg finds it."""


def is_indexed(stream: Any) -> bool:
    """Check whether the container can seek to a keyframe of this track."""
    indexed = len(stream.index_entries) > 0 and stream.container.format.name.startswith(_INDEXED)
    return indexed and not _evenly_spaced(stream)


def _evenly_spaced(stream: Any) -> bool:
    """Check whether to assume evenly spaced frames: FFmpeg's guess of H.264 times in AVI is wrong."""
    return stream.container.format.name in DECODING_TIMES and stream.codec_context.name in ("h264", "hevc")


def displayed_at(targets: Sequence[float], frames: Iterator[tuple[float, _Frame]]) -> Iterator[_Frame]:
    """Yield the frame displayed at each of the ascending `targets`; nothing if there are no frames."""
    cursor = _Cursor(frames)
    for target in targets:
        if (frame := cursor.displayed_at(target)) is not None:
            yield frame


class _Cursor(Generic[_Frame]):
    """Position in a series of frames with ascending times; the first frame is displayed before it, too."""

    def __init__(self, frames: Iterator[tuple[float, _Frame]]) -> None:
        self._frames = frames
        self._current = next(frames, None)
        self._following = next(frames, None)

    def displayed_at(self, target: float) -> _Frame | None:
        while self._following is not None and self._following[0] <= target + FLOAT_S:
            self._current, self._following = self._following, next(self._frames, None)
        return None if self._current is None else self._current[1]


class FrameReader:
    """Reader of the frames of one video track.

    Args:
        container: Open container.
        stream: Its video track.
        zero: Start of the file on the clock of the track's frames, in seconds.
        moved: True if packets of the container have been read; it must be indexed then.
    """

    def __init__(
        self, container: InputContainer, stream: Any, zero: Fraction, *, moved: bool = False
    ) -> None:
        self._container, self._stream, self._zero, self._moved = container, stream, zero, moved
        self._reorders = container.format.name.startswith("mov") and stream.codec_context.has_b_frames
        # Seconds are (ticks * numerator - offset) / denominator: only the quotient of integers is rounded.
        base: Fraction = stream.time_base
        self._numerator, self._offset = base.numerator * zero.denominator, zero.numerator * base.denominator
        self._denominator = base.denominator * zero.denominator
        self._keyframes: dict[int, _Keyframe] = {}
        self._last_decoded: int | None = None
        self._skipping = Skipping(stream, self._seconds) if is_indexed(stream) else None

    def frames_at(self, targets: Sequence[float]) -> Iterator[VideoFrame]:
        """Yield the frame displayed at each of the ascending times in seconds; nothing without frames."""
        self._read_index()
        # All before decoding, because the search for keyframes moves the container.
        starts = [self._keyframe_before(target) for target in targets]
        cursor: _Cursor[VideoFrame] | None = None
        for number, (target, start) in enumerate(zip(targets, starts, strict=True)):
            if cursor is None or not self._has_read(start):
                cursor = _Cursor(self._frames_from(start, targets[number:]))
            if (frame := cursor.displayed_at(target)) is not None:
                yield frame

    def _read_index(self) -> None:
        """Have FFmpeg read the index of a Matroska file, which it does at the first seek."""
        if self._container.format.name.startswith("matroska") and is_indexed(self._stream):
            self._moved = True
            self._container.seek(self._stream.index_entries[0].timestamp, stream=self._stream)

    def _has_read(self, keyframe: _Keyframe | None) -> bool:
        if keyframe is None:
            return True
        return self._last_decoded is not None and keyframe.decoding <= self._last_decoded

    def _keyframe_before(self, target: float) -> _Keyframe | None:
        """Return the last keyframe presented at or before a time; None for the start of the track."""
        if not is_indexed(self._stream):
            return None
        ticks = math.floor((Fraction(target + FLOAT_S) + self._zero) / self._stream.time_base)
        keyframe = self._indexed_keyframe(ticks)
        while keyframe is not None and keyframe.presentation > ticks:
            keyframe = self._indexed_keyframe(keyframe.decoding - 1)
        return keyframe

    def _indexed_keyframe(self, ticks: int) -> _Keyframe | None:
        """Return the last keyframe whose decoding time is not after `ticks`; None for the first or none."""
        number = self._stream.index_entries.search_timestamp(ticks)
        if number <= 0:
            return None
        decoding = self._stream.index_entries[number].timestamp
        if not self._reorders:
            return _Keyframe(decoding, decoding, decoding)
        if decoding not in self._keyframes:
            self._keyframes[decoding] = self._read_keyframe(decoding)
        return self._keyframes[decoding]

    def _read_keyframe(self, decoding: int) -> _Keyframe:
        """Read the times of a keyframe from its packet, if FFmpeg finds the packet."""
        self._moved = True
        index = self._stream.index_entries
        following = index.search_timestamp(decoding + 1, backward=False)
        # FFmpeg subtracts the delay of the first frames, which is unknown, from the time of a seek.
        latest = index[following].timestamp - 1 if following >= 0 else index[len(index) - 1].timestamp
        for seek in (latest, decoding):
            self._container.seek(seek, stream=self._stream)
            packet = next(self._container.demux(self._stream))
            if packet.dts == decoding and packet.pts is not None:
                return _Keyframe(decoding, packet.pts, seek)
        return _Keyframe(decoding, decoding, decoding)

    def _frames_from(
        self, start: _Keyframe | None, targets: Sequence[float]
    ) -> Iterator[tuple[float, VideoFrame]]:
        """Return frames with their times from a keyframe on, or from an earlier one if it is too late."""
        while start is not None:
            self._moved = True
            self._container.seek(start.seek, stream=self._stream)
            frames = self._timed_frames(start.presentation, targets)
            first = next(frames, None)
            if first is not None and first[0] <= targets[0] + FLOAT_S:
                return chain((first,), frames)
            start = self._indexed_keyframe(start.decoding - 1)
        if self._moved:
            self._container.seek(self._stream.index_entries[0].timestamp, stream=self._stream)
        return self._timed_frames(None, targets)

    def _timed_frames(
        self, since: int | None, targets: Sequence[float]
    ) -> Iterator[tuple[float, VideoFrame]]:
        """Decode from the container's position; leave out frames presented before `since` ticks."""
        step, evenly = 1 / float(self._stream.guessed_rate or 25), _evenly_spaced(self._stream)
        if self._skipping is not None:
            self._skipping.start([target + FLOAT_S for target in targets])
        time = -step
        for packet in self._container.demux(self._stream):
            self._last_decoded = self._last_decoded if packet.dts is None else packet.dts
            if self._skipping is not None:
                self._skipping.prepare(packet)
            for frame in frames_of_packet(self._container, packet):
                if since is not None and frame.pts is not None and frame.pts < since:
                    # It may refer to frames before the keyframe.
                    continue
                # Raw streams have no times either.
                time = time + step if evenly or frame.pts is None else self._seconds(frame.pts)
                yield time, frame

    def _seconds(self, ticks: int) -> float:
        """Return a time of the track on the file's clock."""
        return (ticks * self._numerator - self._offset) / self._denominator
