"""Decoding of media files into arrays: frames at given times, audio at a given rate."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from llava_av.media.audio_assembly import Assembly
from llava_av.media.audio_pieces import mono_pieces
from llava_av.media.clip import FramesArray, Video, Waveform
from llava_av.media.container import MediaError, MediaInfo, describe, open_media, probe
from llava_av.media.decord_frames import decord_frames
from llava_av.media.image_formats import image_format
from llava_av.media.image_frames import frames_of_image
from llava_av.media.image_scaling import scaled
from llava_av.media.orientation import frame_orientation
from llava_av.media.seeking import FLOAT_S, FrameReader, displayed_at, is_indexed
from llava_av.media.tracks import (
    DECODING_TIMES,
    audio_stream,
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
    "read_video",
]

_Decoder = Literal["pyav", "decord"]
_Resize = Callable[[FramesArray], FramesArray] | None
_MILLISECOND_S = 1e-3


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
    decoder: _Decoder = "pyav",
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
        frames = _video_frames(container, Path(path), targets, size, resize, decoder)
    return np.asarray(frames[rows])


def read_video(
    path: Path | str,
    *,
    frames_per_s: float,
    max_frames: int,
    size: int,
    resize: _Resize = None,
    decoder: _Decoder = "pyav",
    sample_rate_hz: int | None,
    max_audio_s: float,
) -> Video:
    """Return the frames of a video at `frame_times` and its own audio, from a file that is opened once.

    Containers without an index cannot rewind, so they are opened again for the frames, as decord opens all.

    Args:
        path: File with a video track.
        frames_per_s: See `frame_times`.
        max_frames: See `frame_times`.
        size: See `read_frames`.
        resize: See `read_frames`.
        decoder: See `read_frames`.
        sample_rate_hz: Samples per second of the audio; None: the audio is not read.
        max_audio_s: Seconds of audio to keep from the start.

    Raises:
        MediaError: There is no video track, or frames or audio do not decode.
    """

    def times_of(info: MediaInfo) -> tuple[float, ...]:
        return tuple(frame_times(info.duration_s, frames_per_s=frames_per_s, max_frames=max_frames))

    if image_format(path) is not None:
        times_s = times_of(probe(path))
        frames = read_frames(path, times_s, size=size, resize=resize)
        return Video(frames_nhwc=frames, frame_times_s=times_s, audio=None)
    audio = None
    with open_media(path) as container:
        stream, info = _require_video(container, path), describe(container, Path(path))
        if sample_rate_hz is not None and info.has_audio:
            audio = _track_audio(container, Path(path), sample_rate_hz, max_audio_s)
        times_s = times_of(info)
        rewinds = audio is None or (decoder == "pyav" and is_indexed(stream))
        if rewinds:
            frames = _video_frames(
                container, Path(path), times_s, size, resize, decoder, moved=audio is not None
            )
    if not rewinds:
        frames = read_frames(path, times_s, size=size, resize=resize, decoder=decoder)
    return Video(frames_nhwc=frames, frame_times_s=times_s, audio=audio)


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
        return _track_audio(container, Path(path), sample_rate_hz, max_s)


def _track_audio(container: InputContainer, path: Path, sample_rate_hz: int, max_s: float) -> Waveform:
    """Read the audio of a container from its start."""
    stream = audio_stream(container)
    if stream is None:
        raise MediaError(path, "has no audio track")
    # Slightly more than is kept, so that resampling has neighbours at the end.
    end_s = min(Fraction(max_s) + Fraction(1, 10), _exact_end_s(container, stream) or Fraction(2**40))
    assembly = Assembly(sample_rate_hz, end_s)
    for piece, rate_hz, start_s in mono_pieces(container, stream, path, end_s):
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
    return np.stack([convert(frame) for frame in displayed_at(targets, frames_of_image(path))])


def _video_frames(
    container: InputContainer,
    path: Path,
    targets: Sequence[float],
    size: int,
    resize: _Resize,
    decoder: _Decoder,
    *,
    moved: bool = False,
) -> FramesArray:
    """Return the frame displayed at each of the ascending `targets`; `moved`: packets were read before."""
    stream = _require_video(container, path)
    if decoder == "decord":
        return decord_frames(
            path, targets, size=size, resize=resize, rounding_s=_rounding_s(stream) + FLOAT_S
        )
    reader = FrameReader(container, stream, _video_zero(container, path), moved=moved)
    return _pyav_frames(reader, stream, path, targets, size, resize)


def _require_video(container: InputContainer, path: Path | str) -> Any:
    stream = video_stream(container)
    if stream is None:
        raise MediaError(path, "has no video track")
    return stream


def _pyav_frames(
    reader: FrameReader, stream: Any, path: Path, targets: Sequence[float], size: int, resize: _Resize
) -> FramesArray:
    convert, rounding_s = _converter(size, resize), _rounding_s(stream)
    converted = np.zeros((0, size, size, 3), np.uint8)
    count, last = 0, None
    for frame in reader.frames_at([target + rounding_s for target in targets]):
        if last is None:
            first = convert(frame)
            converted = np.empty((len(targets), *first.shape), np.uint8)
            converted[0] = first
        else:
            # Times close together select the same frame, which is converted once.
            converted[count] = converted[count - 1] if frame is last else convert(frame)
        count, last = count + 1, frame
    if count != len(targets):
        raise MediaError(path, f"is damaged: only {count} of {len(targets)} frames decode; export it again")
    return converted


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


def _converter(size: int, resize: _Resize) -> Any:
    reformatter = VideoReformatter()
    side = size if resize is None else None

    def convert(frame: VideoFrame) -> FramesArray:
        rgb = reformatter.reformat(
            frame, side, side, format="rgb24", interpolation=Interpolation.BILINEAR, threads=1
        )
        stored = np.asarray(rgb.to_ndarray(), np.uint8)
        upright = frame_orientation(frame).apply(stored)
        return upright if resize is None else resize(np.ascontiguousarray(upright))

    return convert


def _exact_end_s(container: InputContainer, stream: Any) -> Fraction | None:
    """Return the end of the track if the container states it exactly, else None.

    An encoder fills its last packet; only the edit list of an MP4 states where the audio ends.
    """
    end = stated_end(stream) if container.format.name.startswith("mov") else None
    return None if end is None else end - time_zero(container)
