"""Mono pieces of an audio track: frames without gaps are joined, so that Python's work is per second."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from av.container import InputContainer

from llava_av.media.clip import Waveform
from llava_av.media.container import MAX_RATE_HZ, MediaError
from llava_av.media.tracks import decoded, time_zero, video_stream

__all__ = ["mono_pieces"]

_LOUDEST = 2.0**16
_DTYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}
_FULL_SCALE = {"u8": 2.0**7, "s16": 2.0**15, "s32": 2.0**31, "s64": 2.0**63}


def mono_pieces(
    container: InputContainer, stream: Any, path: Path, end_s: Fraction
) -> Iterator[tuple[Waveform, int, Fraction | None]]:
    """Yield mono pieces `[n]` of a track with their rate and, if known, their time on the file's clock.

    Args:
        container: Open file, at the position to read from.
        stream: The audio track.
        path: Path of the file for errors.
        end_s: Time at which the reader has enough; no piece goes on for more than a frame after it.

    Raises:
        MediaError: The track changes to a rate that no recording has.
    """
    zero = time_zero(container) if video_stream(container) is not None else None
    for frames in _contiguous(container, stream, path, end_s + (zero or 0)):
        first = frames[0]
        start_s = None if first.pts is None else Fraction(first.pts * first.time_base)
        if zero is None and start_s is not None:
            # A file with only audio starts with its first sample, however much padding precedes it.
            zero = start_s
        yield _mono(frames), first.sample_rate, None if start_s is None else start_s - (zero or 0)


def _contiguous(container: InputContainer, stream: Any, path: Path, end_s: Fraction) -> Iterator[list[Any]]:
    """Yield lists of frames of one format, about a second long, in which each starts where the last ends."""
    joined: list[Any] = []
    samples, ends = 0, 0.0
    for frame in decoded(container, stream):
        _check_rate(frame, path)
        if joined and (samples >= joined[0].sample_rate or not _continues(joined[-1], frame, stream)):
            yield joined
            joined = []
        if not joined:
            samples = 0
            ends = float("inf") if frame.pts is None else float(end_s - frame.pts * frame.time_base)
        joined.append(frame)
        samples += frame.samples
        if samples >= ends * frame.sample_rate:
            yield joined
            joined = []
    if joined:
        yield joined


def _check_rate(frame: Any, path: Path) -> None:
    if not 0 < frame.sample_rate <= MAX_RATE_HZ:
        rate = f"{frame.sample_rate:,} audio samples per second"
        raise MediaError(path, f"is damaged: it changes to {rate}, not 1 to {MAX_RATE_HZ:,}; export it again")


def _continues(last: Any, frame: Any, stream: Any) -> bool:
    """Check whether a frame has the format of the last one and starts exactly at its end."""
    if last.pts is None or frame.pts is None or last.sample_rate != frame.sample_rate:
        return False
    if last.format.name != frame.format.name or last.layout.name != frame.layout.name:
        return False
    base = stream.time_base
    ticks = frame.pts - last.pts
    return bool(ticks * base.numerator * last.sample_rate == last.samples * base.denominator)


def _channels(frames: list[Any]) -> npt.NDArray[Any]:
    """Return the samples `[channels, n]` of frames of one format, in that format."""
    kind, count = frames[0].format, len(frames[0].layout.channels)
    dtype, width = _DTYPES[kind.name.removesuffix("p")], 1 if kind.is_planar else count
    # PyAV's own arrays take ten times as long, and it has none for 64-bit integers.
    planes = [
        [np.frombuffer(plane, dtype, frame.samples * width) for plane in frame.planes] for frame in frames
    ]
    joined = np.stack([np.concatenate(pieces) for pieces in zip(*planes, strict=True)])
    return joined if kind.is_planar else joined.reshape(-1, count).T


def _mono(frames: list[Any]) -> Waveform:
    """Return the mean of the channels `[n]` of frames of one format."""
    samples = _channels(frames)
    name = frames[0].format.name.removesuffix("p")
    if name in _FULL_SCALE:
        samples = samples / _FULL_SCALE[name] - (1.0 if name == "u8" else 0.0)
    elif not (samples.max(initial=0) <= _LOUDEST and samples.min(initial=0) >= -_LOUDEST):
        # The file is damaged: sums of such samples would overflow, or some are no numbers.
        samples = np.clip(np.nan_to_num(samples), -_LOUDEST, _LOUDEST)
    return np.asarray(samples.mean(axis=0), dtype=np.float32)
