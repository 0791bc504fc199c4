"""Decoding of media files into arrays: frames at given times, audio at a given rate."""

import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from llava_av.media.audio_assembly import Assembly
from llava_av.media.clip import FramesArray, Waveform
from llava_av.media.container import MAX_RATE_HZ, MediaError, MediaInfo, open_media, probe
from llava_av.media.decord_frames import decord_frames
from llava_av.media.image_formats import image_format
from llava_av.media.image_frames import frames_of_image
from llava_av.media.image_scaling import scaled
from llava_av.media.orientation import frame_orientation
from llava_av.media.tracks import (
    DECODING_TIMES,
    audio_stream,
    decoded,
    lateness,
    stated_end,
    time_zero,
    video_stream,
)

__all__ = [
    "MediaError",
    "MediaInfo",
    "frame_times",
    "probe",
    "read_audio",
    "read_frames",
]

_Frame = TypeVar("_Frame")
_Resize = Callable[[FramesArray], FramesArray] | None
_MILLISECOND_S = 1e-3
# Tolerance with which 0.1 + 0.2 finds the frame at 0.3.
_FLOAT_S = 1e-6
_INDEXED = ("mov", "matroska", "avi", "flv")
_LOUDEST = 2.0**16
_FULL_SCALE = {"u8": 2.0**7, "s16": 2.0**15, "s32": 2.0**31, "s64": 2.0**63}


def frame_times(duration_s: float, *, frames_per_s: float, max_frames: int) -> list[float]:
    """Return the times at which a clip is sampled: the centres of equal intervals that cover it.

    Args:
        duration_s: Length of the clip in seconds.
        frames_per_s: Intervals per second of the clip.
        max_frames: Maximum number of intervals; a longer clip has longer intervals.

    Returns:
        Ascending times in seconds inside the clip, at least one.
    """
    count = max(1, min(max_frames, math.floor(duration_s * frames_per_s + 0.5)))
    return [(index + 0.5) * duration_s / count for index in range(count)]


def read_frames(
    path: Path | str,
    times_s: Sequence[float],
    *,
    size: int,
    resize: _Resize = None,
    decoder: Literal["pyav", "decord"] = "pyav",
) -> FramesArray:
    """Return the frame displayed at each time; presentation times make variable frame rates exact.

    Times before the first frame select the first, times after the last frame the last.

    Args:
        path: File with a video track.
        times_s: Seconds from the file's start (its first frame or audio), in any order.
        size: Side of the square that frames are stretched to, in pixels.
        resize: Turns a frame `[height, width, 3]` into such a square; None: bilinear while decoding.
        decoder: Library that decodes.

    Returns:
        Frames `[len(times_s), size, size, 3]`, RGB, upright, in the order of `times_s`.

    Raises:
        MediaError: There is no video track, or frames do not decode.
    """
    targets = sorted(set(times_s))
    rows = [targets.index(time) for time in times_s]
    if image_format(path) is not None:
        return _image_frames(path, targets, size, resize)[rows]
    with open_media(path) as container:
        stream = video_stream(container)
        if stream is None:
            raise MediaError(path, "has no video track")
        if decoder == "decord":
            frames = decord_frames(
                Path(path), targets, size=size, resize=resize, rounding_s=_rounding_s(stream) + _FLOAT_S
            )
        else:
            frames = _pyav_frames(container, stream, Path(path), targets, size, resize)
    return np.asarray(frames[rows])


def read_audio(path: Path | str, *, sample_rate_hz: int, max_s: float) -> Waveform:
    """Return audio as mono samples on the clock of the frames: sample 0 is the file's start.

    Channels are averaged, gaps in the track become silence, and libswresample converts the rate
    (`llava_av.media.audio_resampling`).

    Args:
        path: File with an audio track.
        sample_rate_hz: Samples per second to return.
        max_s: Seconds to keep from the start.

    Returns:
        Samples `[n]` in about -1 to 1, `n <= round(max_s * sample_rate_hz)`.

    Raises:
        MediaError: There is no audio track (a silent one counts), or the audio does not decode.
    """
    with open_media(path) as container:
        stream = audio_stream(container)
        if stream is None:
            raise MediaError(path, "has no audio track")
        # Slightly more than is kept, so that resampling has neighbours at the end.
        end_s = min(Fraction(max_s) + Fraction(1, 10), _exact_end_s(container, stream) or Fraction(2**40))
        assembly = Assembly(sample_rate_hz, end_s)
        for piece, rate_hz, start_s in _pieces(container, stream, Path(path)):
            try:
                assembly.add(piece, rate_hz, start_s)
            except ValueError as error:
                raise MediaError(path, f"its audio has {error}; export it again") from None
            if assembly.full:
                break
    samples = assembly.result()
    if samples is None:
        raise MediaError(path, "has an audio track that does not decode at all; export it again")
    return samples[: round(max_s * sample_rate_hz)]


def _image_frames(path: Path | str, targets: Sequence[float], size: int, resize: _Resize) -> FramesArray:
    """Return the frame of an animation or a still image displayed at each of the ascending `targets`."""
    convert = resize or (lambda frame: scaled(frame, size, size))
    return np.stack([convert(frame) for frame in _frames_at(targets, frames_of_image(path))])


def _pyav_frames(
    container: InputContainer, stream: Any, path: Path, targets: Sequence[float], size: int, resize: _Resize
) -> FramesArray:
    zero, convert, rounding_s = _video_zero(container, path), _converter(size, resize), _rounding_s(stream)
    converted: list[FramesArray] = []
    targets = [target + rounding_s for target in targets]
    for start, group in _groups_by_keyframe(stream, targets, zero):
        last = None
        for frame in _frames_at(group, _frames_from(container, stream, start, group[0], zero)):
            # Times close together select the same frame, which is converted once.
            converted.append(converted[-1] if frame is last else convert(frame))
            last = frame
    if len(converted) != len(targets):
        reason = f"is damaged: only {len(converted)} of {len(targets)} frames decode; export it again"
        raise MediaError(path, reason)
    return np.stack(converted) if converted else np.zeros((0, size, size, 3), np.uint8)


def _video_zero(container: InputContainer, path: Path) -> Fraction:
    """Return the file's start on the clock of its video frames."""
    zero = time_zero(container)
    if container.format.name not in DECODING_TIMES:
        return zero
    with open_media(path) as again:
        return zero + lateness(again, video_stream(again))


def _rounding_s(stream: Any) -> float:
    """Return by how much a frame's stored time may be late: Matroska, FLV and ASF round to milliseconds."""
    return _MILLISECOND_S if stream.time_base == Fraction(1, 1000) else 0.0


def _groups_by_keyframe(
    stream: Any, targets: Sequence[float], zero: Fraction
) -> Iterator[tuple[int, list[float]]]:
    """Group ascending times by the keyframe at which decoding starts; yield its index and the times."""
    index = stream.index_entries
    # Other containers find any packet before a time, not a keyframe.
    indexed = len(index) > 0 and stream.container.format.name.startswith(_INDEXED)
    indexed = indexed and not _evenly_spaced(stream)
    group: list[float] = []
    start = 0
    for time in targets:
        ticks = math.floor((Fraction(time) + zero) / stream.time_base)
        key = max(0, index.search_timestamp(ticks)) if indexed else 0
        if group and key != start:
            yield start, group
            group = []
        start = key
        group.append(time)
    if group:
        yield start, group


def _frames_from(
    container: InputContainer, stream: Any, start: int, first_s: float, zero: Fraction
) -> Iterator[tuple[float, VideoFrame]]:
    """Yield frames with their times, starting at a keyframe displayed no later than `first_s`."""
    moved = False
    while start > 0:
        moved = True
        entry = stream.index_entries[start]
        container.seek(entry.timestamp, stream=stream)
        frames = _timed_frames(container, stream, zero)
        first = next(frames, None)
        if first is not None and first[0] <= first_s + _FLOAT_S:
            yield first
            yield from frames
            return
        # The index holds decoding times, which may precede the presentation time.
        start = stream.index_entries.search_timestamp(entry.timestamp - 1)
    if moved:
        container.seek(stream.index_entries[0].timestamp, stream=stream)
    yield from _timed_frames(container, stream, zero)


def _timed_frames(
    container: InputContainer, stream: Any, zero: Fraction
) -> Iterator[tuple[float, VideoFrame]]:
    step, evenly = 1 / float(stream.guessed_rate or 25), _evenly_spaced(stream)
    time = -step
    for frame in decoded(container, stream):
        # Raw streams have no times either.
        evenly_spaced = evenly or frame.pts is None
        time = time + step if evenly_spaced else float(frame.pts * frame.time_base - zero)
        yield time, frame


def _evenly_spaced(stream: Any) -> bool:
    """Check whether to assume evenly spaced frames: FFmpeg's guess of H.264 times in AVI is wrong."""
    return stream.container.format.name in DECODING_TIMES and stream.codec_context.name in ("h264", "hevc")


def _frames_at(targets: Sequence[float], frames: Iterator[tuple[float, _Frame]]) -> Iterator[_Frame]:
    """Yield the frame displayed at each of the ascending `targets`; nothing if there are no frames."""
    current = next(frames, None)
    following = next(frames, None)
    for target in targets:
        while following is not None and following[0] <= target + _FLOAT_S:
            current, following = following, next(frames, None)
        if current is not None:
            yield current[1]


def _converter(size: int, resize: _Resize) -> Any:
    reformatter = VideoReformatter()
    side = size if resize is None else None

    def convert(frame: VideoFrame) -> FramesArray:
        rgb = reformatter.reformat(
            frame, side, side, format="rgb24", interpolation=Interpolation.BILINEAR, threads=1
        )
        stored = np.asarray(rgb.to_ndarray(), np.uint8)
        upright = np.ascontiguousarray(frame_orientation(frame).apply(stored))
        return upright if resize is None else resize(upright)

    return convert


def _pieces(
    container: InputContainer, stream: Any, path: Path
) -> Iterator[tuple[Waveform, int, Fraction | None]]:
    """Yield mono pieces of an audio track with their rate and, if known, their time on the file's clock."""
    zero = time_zero(container) if video_stream(container) is not None else None
    for frame in decoded(container, stream):
        if not 0 < frame.sample_rate <= MAX_RATE_HZ:
            rate = f"{frame.sample_rate:,} audio samples per second"
            raise MediaError(
                path, f"is damaged: it changes to {rate}, not 1 to {MAX_RATE_HZ:,}; export it again"
            )
        start_s = None if frame.pts is None else Fraction(frame.pts * frame.time_base)
        if zero is None and start_s is not None:
            # A file with only audio starts with its first sample, however much padding precedes it.
            zero = start_s
        yield _mono(frame), frame.sample_rate, None if start_s is None else start_s - (zero or 0)


def _samples(frame: Any) -> npt.NDArray[Any]:
    """Return the samples `[planes, n]` in the frame's own format."""
    if not frame.format.name.startswith("s64"):
        return np.asarray(frame.to_ndarray())
    # PyAV cannot convert this format to an array.
    length = frame.samples * (1 if frame.format.is_planar else len(frame.layout.channels))
    return np.stack([np.frombuffer(plane, np.int64)[:length] for plane in frame.planes])


def _mono(frame: Any) -> Waveform:
    samples = _samples(frame)
    if not frame.format.is_planar:
        samples = samples.reshape(-1, len(frame.layout.channels)).T
    name = frame.format.name.removesuffix("p")
    if name in _FULL_SCALE:
        samples = samples / _FULL_SCALE[name] - (1.0 if name == "u8" else 0.0)
    elif not np.isfinite(samples).all() or np.abs(samples).max(initial=0) > _LOUDEST:
        # The file is damaged; sums of such samples would overflow.
        samples = np.clip(np.nan_to_num(samples), -_LOUDEST, _LOUDEST)
    return np.asarray(samples.mean(axis=0), dtype=np.float32)


def _exact_end_s(container: InputContainer, stream: Any) -> Fraction | None:
    """Return the end of the track if the container states it exactly, else None.

    An encoder fills its last packet; only the edit list of an MP4 states where the audio ends.
    """
    end = stated_end(stream) if container.format.name.startswith("mov") else None
    return None if end is None else end - time_zero(container)
