"""Frames by decord, with PyAV's times.

decord counts times from the first frame in some containers and from the file's start in others, and gives
none for AVI and MPEG-PS. So the times come from the packets, and decord gives frames by their number. It
seeks to a wrong frame if a keyframe is followed by frames that are shown before it, and it does not mirror
frames: such files are refused.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llava_av.media.container import MediaError, open_media
from llava_av.media.orientation import Orientation, frame_orientation
from llava_av.media.tracks import decoded, time_zero, video_stream

__all__ = ["decord_frames"]

Frames = npt.NDArray[np.uint8]
_CONTAINERS = ("mov", "matroska", "flv")


def decord_frames(
    path: Path,
    targets: Sequence[float],
    *,
    size: int,
    resize: Callable[[Frames], Frames] | None,
    rounding_s: float,
) -> Frames:
    """Return the frame shown at each of the ascending `targets`; other arguments as for `read_frames`.

    Raises:
        MediaError: decord cannot decode the file, or not with the right times or orientation.
    """
    import decord

    starts_s = _starts_s(path)
    decord.logging.set_level(decord.logging.QUIET)
    side = size if resize is None else -1
    try:
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), width=side, height=side, num_threads=1)
        if len(reader) != len(starts_s):
            raise _refusal(path, f"it counts {len(reader)} frames, the file has {len(starts_s)}")
        shown = np.searchsorted(starts_s, np.asarray(targets) + rounding_s, side="right") - 1
        if resize is None:
            return np.asarray(reader.get_batch(np.maximum(shown, 0)).asnumpy())
        return np.stack([resize(reader[place].asnumpy()) for place in np.maximum(shown, 0)])
    except (decord.DECORDError, RuntimeError) as error:
        # Its messages are native stack traces.
        raise _refusal(path, type(error).__name__) from None


def _starts_s(path: Path) -> list[float]:
    """Return when each frame is shown, in seconds from the file's start, in the order of decord's numbers."""
    with open_media(path) as container:
        name = container.format.name
        if not name.startswith(_CONTAINERS):
            raise _refusal(path, f"it cannot time {name}")
        _require_turned(path, name, _orientation(path))
        zero, starts, keyframe = time_zero(container), [], None
        for packet in container.demux(video_stream(container)):
            if packet.pts is None or packet.is_discard:
                continue
            start = packet.pts * packet.time_base
            if keyframe is not None and start < keyframe:
                raise _refusal(path, "it seeks to wrong frames near keyframes that others precede")
            keyframe = start if packet.is_keyframe else keyframe
            starts.append(float(start - zero))
    return sorted(starts)


def _orientation(path: Path) -> Orientation:
    with open_media(path) as container:
        first: Any = next(decoded(container, video_stream(container)), None)
        return Orientation() if first is None else frame_orientation(first)


def _require_turned(path: Path, container: str, orientation: Orientation) -> None:
    if orientation.mirrored:
        raise _refusal(path, "it does not mirror frames")
    if orientation != Orientation() and not container.startswith("mov"):
        raise _refusal(path, f"it does not turn frames of {container}")


def _refusal(path: Path, reason: str) -> MediaError:
    return MediaError(path, f"decord cannot decode it ({reason}); try decoder: pyav")
