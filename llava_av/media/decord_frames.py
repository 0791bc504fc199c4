"""Frames decoded by decord, selected by PyAV's presentation times.

decord counts times from the first frame in some containers and from the file's start in others, and has none
for AVI and MPEG-PS. Therefore the times come from the packets, and decord only decodes frames by number. It
seeks to a wrong frame if a keyframe is followed by frames that precede it in time, and it does not mirror
frames; such files are refused. decord 0.6 pads the rows of narrow frames and returns the padding as further
channels; the padding is removed here.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llava_av.media.clip import FramesArray
from llava_av.media.container import MediaError, open_media
from llava_av.media.orientation import Orientation, frame_orientation
from llava_av.media.tracks import decoded, time_zero, video_stream

__all__ = ["decord_frames"]


_CONTAINERS = ("mov", "matroska", "flv")


def decord_frames(
    path: Path,
    targets: Sequence[float],
    *,
    size: int,
    resize: Callable[[FramesArray], FramesArray] | None,
    rounding_s: float,
) -> FramesArray:
    """Return the frame displayed at each of the ascending `targets`; other arguments as for `read_frames`.

    Raises:
        MediaError: Decord cannot decode the file, or not with correct times or orientation.
    """
    import decord

    starts_s = _starts_s(path)
    decord.logging.set_level(decord.logging.QUIET)
    side = size if resize is None else -1
    try:
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), width=side, height=side, num_threads=1)
        if len(reader) != len(starts_s):
            raise _refusal(path, f"it counts {len(reader)} frames, the file has {len(starts_s)}")
        numbers = np.searchsorted(starts_s, np.asarray(targets) + rounding_s, side="right") - 1
        frames = (_without_padding(reader[number].asnumpy()) for number in np.maximum(numbers, 0))
        return np.stack([frame if resize is None else resize(frame) for frame in frames])
    except (decord.DECORDError, RuntimeError) as error:
        # decord's messages are native stack traces.
        raise _refusal(path, type(error).__name__) from None


def _without_padding(frame: FramesArray) -> FramesArray:
    """Return the pixels `[height, width, 3]` of a frame whose rows may be padded with more channels."""
    height, width, channels = frame.shape
    if channels == 3:
        return frame
    return np.ascontiguousarray(frame.reshape(height, -1)[:, : 3 * width]).reshape(height, width, 3)


def _starts_s(path: Path) -> list[float]:
    """Return the time of each frame, in seconds from the file's start, in the order of decord's numbers."""
    with open_media(path) as container:
        name = container.format.name
        if not name.startswith(_CONTAINERS):
            raise _refusal(path, f"it has no exact times in {name}")
        _require_upright(path, name, _orientation(path))
        zero, starts, keyframe = time_zero(container), [], None
        for packet in container.demux(video_stream(container)):
            if packet.pts is None or packet.is_discard:
                continue
            start = packet.pts * packet.time_base
            if keyframe is not None and start < keyframe:
                raise _refusal(path, "it seeks to wrong frames if frames after a keyframe precede it in time")
            keyframe = start if packet.is_keyframe else keyframe
            starts.append(float(start - zero))
    return sorted(starts)


def _orientation(path: Path) -> Orientation:
    with open_media(path) as container:
        first: Any = next(decoded(container, video_stream(container)), None)
        return Orientation() if first is None else frame_orientation(first)


def _require_upright(path: Path, container: str, orientation: Orientation) -> None:
    if orientation.mirrored:
        raise _refusal(path, "it does not mirror frames")
    if orientation != Orientation() and not container.startswith("mov"):
        raise _refusal(path, f"it does not rotate frames of {container}")


def _refusal(path: Path, reason: str) -> MediaError:
    return MediaError(path, f"decord cannot decode it ({reason}); set decoder: pyav")
