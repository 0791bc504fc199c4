"""What a clip looks and sounds like at a glance: a few of its frames side by side above its waveform.

They stand in the page also where the clip itself is too large for it, and on paper, where nothing plays.
"""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from llava_av.media.container import MediaInfo

__all__ = ["WAVE_HEIGHT", "WAVE_WIDTH", "Preview", "preview", "wave_path"]

_FRAMES = 4
_FRAME_HEIGHT = 90
_MAX_ASPECT = 2.4
_WAVE_RATE_HZ = 8_000
"""Enough for an outline; a file's own rate may be a hundred times as much."""
_MAX_SOUND_S = 600.0
"""Of a longer clip this much of the sound is drawn: all of it would take the memory of minutes of samples."""
WAVE_WIDTH, WAVE_HEIGHT = 240, 40
"""Box that a waveform is drawn in."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """A clip without playing it."""

    poster: str = ""
    """`data:` URI of its first frame; empty without pictures."""
    strip: str = ""
    """`data:` URI of frames from its whole length, side by side."""
    wave: str = ""
    """Path of its waveform in a box of `WAVE_WIDTH` x `WAVE_HEIGHT`; empty without sound."""
    duration_s: float = 0.0


def preview(path: Path) -> Preview:
    """Return a preview of a file; an empty one if it does not decode."""
    from llava_av.media.container import MediaError, probe

    try:
        info = probe(path)
        frames = _pictures(path, info)
        wave = _wave(path, info)
    except MediaError:
        return Preview()
    return Preview(
        poster=_uri(frames[0]) if len(frames) else "",
        strip=_uri(np.concatenate(list(frames), axis=1)) if len(frames) > 1 else "",
        wave=wave,
        duration_s=info.duration_s,
    )


def wave_path(sound: npt.NDArray[np.float32]) -> str:
    """Return the outline of audio as an SVG path: in each column from its lowest sample to its highest.

    Args:
        sound: mono samples `[n]` in -1 to 1; the loudest one reaches the edge of the box.
    """
    if not len(sound):
        return ""
    columns = np.array_split(sound, min(WAVE_WIDTH, len(sound)))
    loudest = max(float(np.abs(sound).max()), 1e-4)
    middle = WAVE_HEIGHT / 2
    scale = (middle - 1) / loudest
    step = WAVE_WIDTH / len(columns)
    # Half a unit at least, so that silence is a line and no gap.
    tops = [middle - max(float(column.max()) * scale, 0.25) for column in columns]
    bottoms = [middle - min(float(column.min()) * scale, -0.25) for column in columns]
    there = [f"{(place + 0.5) * step:.1f} {y:.1f}" for place, y in enumerate(tops)]
    back = [f"{(place + 0.5) * step:.1f} {y:.1f}" for place, y in reversed(list(enumerate(bottoms)))]
    return f"M{'L'.join(there)}L{'L'.join(back)}Z"


def _pictures(path: Path, info: "MediaInfo") -> npt.NDArray[np.uint8]:
    """Frames `[n, height, width, 3]` in the clip's own proportions."""
    from llava_av.media.decode import frame_times, read_frames

    if not info.width or not info.height:
        return np.zeros((0, _FRAME_HEIGHT, _FRAME_HEIGHT, 3), np.uint8)
    video = info.kind == "video"
    times = frame_times(info.duration_s, frames_per_s=1e6, max_frames=_FRAMES) if video else [0.0]
    square = read_frames(path, times, size=_FRAME_HEIGHT)
    aspect = min(max(info.width / info.height, 1 / _MAX_ASPECT), _MAX_ASPECT)
    width = round(_FRAME_HEIGHT * aspect)
    # Columns are picked, not blended: pictures this small need no better.
    columns = (np.arange(width) * _FRAME_HEIGHT) // width
    return np.asarray(square[:, :, columns])


def _wave(path: Path, info: "MediaInfo") -> str:
    from llava_av.media.decode import read_audio

    if not info.has_audio:
        return ""
    return wave_path(read_audio(path, sample_rate_hz=_WAVE_RATE_HZ, max_s=_MAX_SOUND_S))


def _uri(picture: npt.NDArray[np.uint8]) -> str:
    from llava_av.media.encode import encode_jpeg

    return f"data:image/jpeg;base64,{base64.b64encode(encode_jpeg(picture)).decode()}"
