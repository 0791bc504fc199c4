"""Previews of clips: a few frames side by side, and the waveform of the audio.

A report also shows the preview of a clip that is too large to embed, and in print, which has no playback.
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
"""Sufficient for an outline; files may have a much higher rate."""
_MAX_AUDIO_S = 600.0
"""Maximum audio in a waveform; it limits the memory for long clips."""
WAVE_WIDTH, WAVE_HEIGHT = 240, 40
"""Size of the box of a waveform."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """Images that represent a clip."""

    poster: str = ""
    """`data:` URI of the first frame; empty without images."""
    strip: str = ""
    """`data:` URI of evenly spaced frames, side by side."""
    wave: str = ""
    """SVG path of the waveform in a box of `WAVE_WIDTH` x `WAVE_HEIGHT`; empty without audio."""
    duration_s: float = 0.0


def preview(path: Path) -> Preview:
    """Return the preview of a file; an empty preview if the file cannot be decoded."""
    from llava_av.media.container import MediaError, probe

    try:
        info = probe(path)
        frames = _frames(path, info)
        wave = _wave(path, info)
    except MediaError:
        return Preview()
    return Preview(
        poster=_uri(frames[0]) if len(frames) else "",
        strip=_uri(np.concatenate(list(frames), axis=1)) if len(frames) > 1 else "",
        wave=wave,
        duration_s=info.duration_s,
    )


def wave_path(audio: npt.NDArray[np.float32]) -> str:
    """Return the outline of audio as an SVG path from the lowest to the highest sample of each column.

    Args:
        audio: Mono samples `[n]` in -1 to 1; the loudest sample reaches the edge of the box.
    """
    if not len(audio):
        return ""
    columns = np.array_split(audio, min(WAVE_WIDTH, len(audio)))
    loudest = max(float(np.abs(audio).max()), 1e-4)
    middle = WAVE_HEIGHT / 2
    scale = (middle - 1) / loudest
    step = WAVE_WIDTH / len(columns)
    # The height is at least half a unit, so that silence appears as a line.
    tops = [middle - max(float(column.max()) * scale, 0.25) for column in columns]
    bottoms = [middle - min(float(column.min()) * scale, -0.25) for column in columns]
    upper = [f"{(place + 0.5) * step:.1f} {y:.1f}" for place, y in enumerate(tops)]
    lower = [f"{(place + 0.5) * step:.1f} {y:.1f}" for place, y in reversed(list(enumerate(bottoms)))]
    return f"M{'L'.join(upper)}L{'L'.join(lower)}Z"


def _frames(path: Path, info: "MediaInfo") -> npt.NDArray[np.uint8]:
    """Return frames `[n, height, width, 3]` with the aspect ratio of the clip."""
    from llava_av.media.decode import frame_times, read_frames

    if not info.width or not info.height:
        return np.zeros((0, _FRAME_HEIGHT, _FRAME_HEIGHT, 3), np.uint8)
    video = info.kind == "video"
    times = frame_times(info.duration_s, frames_per_s=1e6, max_frames=_FRAMES) if video else [0.0]
    square = read_frames(path, times, size=_FRAME_HEIGHT)
    aspect = min(max(info.width / info.height, 1 / _MAX_ASPECT), _MAX_ASPECT)
    width = round(_FRAME_HEIGHT * aspect)
    # Columns are picked without interpolation, which is sufficient for small images.
    columns = (np.arange(width) * _FRAME_HEIGHT) // width
    return np.asarray(square[:, :, columns])


def _wave(path: Path, info: "MediaInfo") -> str:
    from llava_av.media.decode import read_audio

    if not info.has_audio:
        return ""
    return wave_path(read_audio(path, sample_rate_hz=_WAVE_RATE_HZ, max_s=_MAX_AUDIO_S))


def _uri(image: npt.NDArray[np.uint8]) -> str:
    from llava_av.media.encode import encode_jpeg

    return f"data:image/jpeg;base64,{base64.b64encode(encode_jpeg(image)).decode()}"
