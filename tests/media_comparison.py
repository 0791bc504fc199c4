"""Comparison of `llava_av.media` with FFmpeg's sequential decoding, for files of the corpus.

This module does not use the package's code for tracks, times or orientation. It decodes the whole file in
order; the corpus entry determines when each frame is shown and how it is rotated.
"""

import random
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.stream import Disposition
from av.video.reformatter import Interpolation

from llava_av.media.container import probe
from llava_av.media.decode import read_audio, read_frames
from tests.media_corpus import Entry
from tests.media_writer import Video, sweep

SIDE = 40
MOST_S = 30.0

Frames = npt.NDArray[np.uint8]
Samples = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Differences between two readings of one file."""

    tracks: str
    """Container and codecs with their FFmpeg names."""
    duration_s: float
    """Duration that `probe` returns."""
    expected_s: float
    """Duration that was written."""
    frames: int
    """Frames that FFmpeg decodes."""
    frame_error: int
    """Largest difference between a value of a frame and of FFmpeg's frame, 0 to 255."""
    audio_error: float
    """Largest difference between an audio sample and FFmpeg's, relative to full scale."""
    audio_shift_s: float
    """Delay of the audio relative to what was written."""
    audio_s: float
    """Duration of the audio from the start of the file."""


def compare(entry: Entry, path: Path) -> Compared:
    """Read `path`, which `entry` has written, with both decoders."""
    info = probe(path)
    decoded = _ffmpeg_frames(path) if entry.video else []
    audio = read_audio(path, sample_rate_hz=info.sample_rate_hz or 0, max_s=MOST_S) if entry.audio else None
    return Compared(
        tracks=_tracks(path),
        duration_s=info.duration_s,
        expected_s=_expected_s(entry),
        frames=len(decoded),
        frame_error=_frame_error(entry, path, decoded) if entry.video else 0,
        audio_error=0.0 if audio is None else _audio_error(audio, _ffmpeg_audio(path)),
        audio_shift_s=0.0 if audio is None else _audio_shift_s(entry, audio, info.sample_rate_hz or 0),
        audio_s=0.0 if audio is None else len(audio) / (info.sample_rate_hz or 1),
    )


def frame_starts(entry: Entry) -> list[float]:
    """Return when each frame of an entry is first shown, in seconds from the start of the file."""
    assert entry.video is not None
    places = [place for place in entry.video.places if place >= 0]
    return [float(place / entry.video.fps) - entry.zero_s for place in places]


def _expected_s(entry: Entry) -> float:
    if entry.video is not None:
        return frame_starts(entry)[-1] + float(1 / entry.video.fps)
    assert entry.audio is not None
    return entry.audio.start_s + entry.audio.duration_s - entry.zero_s


def _tracks(path: Path) -> str:
    with av.open(str(path)) as container:
        codecs = [
            s.codec_context.codec.canonical_name for s in container.streams if s.type in ("video", "audio")
        ]
        return f"{container.format.name.split(',')[0]}: {', '.join(codecs)}"


def _ffmpeg_frames(path: Path) -> list[Frames]:
    with av.open(str(path)) as container:
        stream = next(s for s in container.streams.video if not s.disposition & Disposition.attached_pic)
        return [
            frame.reformat(SIDE, SIDE, format="rgb24", interpolation=Interpolation.BILINEAR).to_ndarray()
            for frame in container.decode(stream)
        ]


def _ffmpeg_audio(path: Path) -> Samples:
    to_float = av.AudioResampler(format="fltp")
    with av.open(str(path)) as container:
        pieces = [
            converted.to_ndarray().mean(axis=0)
            for frame in container.decode(container.streams.audio[0])
            for converted in to_float.resample(frame)
        ]
    return np.concatenate(pieces).astype(np.float32)


def _frame_error(entry: Entry, path: Path, decoded: list[Frames]) -> int:
    """Read frames in order, one by one from the end, and some in random order, which seeks."""
    starts = frame_starts(entry)
    assert len(decoded) == len(starts), f"FFmpeg decodes {len(decoded)} frames of {len(starts)}"
    middles = [(start + end) / 2 for start, end in zip(starts, [*starts[1:], starts[-1] + 0.02], strict=True)]
    some = random.Random(entry.name).sample(middles, min(4, len(middles)))
    errors = [0]
    for times in (middles, middles[-1:], some, [0.0, MOST_S * 100]):
        wanted = [decoded[max(0, bisect_right(starts, time) - 1)] for time in times]
        seen = read_frames(path, times, size=SIDE)
        for ours, theirs in zip(seen, wanted, strict=True):
            errors.append(int(np.abs(ours.astype(int) - _upright(theirs, entry.video)).max()))
    return max(errors)


def _upright(frame: Frames, video: Any) -> npt.NDArray[np.int_]:
    assert isinstance(video, Video)
    turned = np.rot90(frame, video.rotation // 90)
    turned = turned[:, ::-1] if video.hflip else turned
    return (turned[::-1] if video.vflip else turned).astype(int)


def _audio_error(ours: Samples, theirs: Samples) -> float:
    lag = _lag(ours, theirs)
    ours, theirs = ours[max(0, lag) :], theirs[max(0, -lag) :]
    length = min(len(ours), len(theirs))
    assert length >= 0.9 * min(len(ours), len(theirs))
    return float(np.abs(ours[:length] - theirs[:length]).max())


def _audio_shift_s(entry: Entry, audio: Samples, rate_hz: int) -> float:
    assert entry.audio is not None
    written = sweep(entry.audio.duration_s, entry.audio.rate_hz, entry.audio.channels).mean(axis=0)
    assert rate_hz == entry.audio.rate_hz
    return _lag(audio, written) / rate_hz - (entry.audio.start_s - entry.zero_s)


def _lag(later: Samples, earlier: Samples) -> int:
    """Return the lag of `later` behind `earlier` in samples, by cross-correlation."""
    length = 1 << (len(later) + len(earlier)).bit_length()
    product = np.fft.rfft(later, length) * np.conj(np.fft.rfft(earlier, length))
    place = int(np.argmax(np.fft.irfft(product, length)))
    return place - length if place > length // 2 else place
