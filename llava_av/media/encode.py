"""Writing short clips as MP4 files: H.264 pictures and AAC sound."""

import contextlib
import io
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.codec.context import Flags

from llava_av.media.container import MediaError

__all__ = ["encode_clip", "encode_jpeg", "encoder_version", "write_clip"]

_AUDIO_BITS_PER_S = 64_000
# On short mono tones the fast coder is both quicker (5 against 10 ms for 2 s) and closer to the original.
_AAC = {"aac_coder": "fast"}
# CRF 18 keeps the colours of small pictures; without B-frames decoding order is showing order.
_H264 = {"preset": "veryfast", "crf": "18", "bf": "0"}


def write_clip(
    path: Path,
    frames_nhwc: npt.NDArray[np.uint8],
    fps: float,
    audio: npt.NDArray[np.float32] | None,
    sample_rate_hz: int,
) -> None:
    """Writes a clip as MP4, whole or not at all; equal input gives equal bytes.

    Args:
        path: the file to write; its folder has to exist.
        frames_nhwc: RGB frames `[n, height, width, 3]`; height and width are even.
        fps: frames per second.
        audio: mono samples `[m]` in -1 to 1; None writes no sound track.
        sample_rate_hz: samples per second of `audio`.

    Raises:
        MediaError: the file cannot be written.
        ValueError: an array of another shape or type.
    """
    data = encode_clip(frames_nhwc, fps, audio, sample_rate_hz)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise MediaError(path, f"cannot be written: {error.strerror or error}") from None


def encode_clip(
    frames_nhwc: npt.NDArray[np.uint8],
    fps: float,
    audio: npt.NDArray[np.float32] | None,
    sample_rate_hz: int,
) -> bytes:
    """The bytes that `write_clip` writes; same arguments."""
    _check(frames_nhwc, audio)
    target = io.BytesIO()
    with av.open(target, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        video = _add_video(container, frames_nhwc, fps)
        sound = None if audio is None else _add_sound(container, sample_rate_hz)
        for index, picture in enumerate(frames_nhwc):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, 1 / Fraction(video.codec_context.rate)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound is not None and audio is not None:
            container.mux(sound.encode(_sound_frame(audio, sample_rate_hz)))
            container.mux(sound.encode(None))
    return target.getvalue()


def encode_jpeg(picture_hwc: npt.NDArray[np.uint8]) -> bytes:
    """A picture as JPEG; equal input gives equal bytes.

    Args:
        picture_hwc: RGB `[height, width, 3]`.
    """
    target = io.BytesIO()
    with av.open(target, "w", format="mjpeg", options={"fflags": "+bitexact"}) as container:
        stream: Any = container.add_stream("mjpeg", rate=1, options={"qmin": "2", "qmax": "4"})
        stream.height, stream.width = picture_hwc.shape[:2]
        stream.pix_fmt = "yuvj444p"
        _make_repeatable(stream)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture_hwc), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return target.getvalue()


def encoder_version() -> str:
    """Version of the codec library: another one may write other bytes for equal input."""
    return ".".join(str(part) for part in av.library_versions["libavcodec"])


def _check(frames_nhwc: npt.NDArray[np.uint8], audio: npt.NDArray[np.float32] | None) -> None:
    shape = frames_nhwc.shape
    if frames_nhwc.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or not shape[0]:
        raise ValueError(f"frames are {frames_nhwc.dtype} {shape}, not uint8 [n, height, width, 3]")
    if shape[1] % 2 or shape[2] % 2:
        raise ValueError(f"frames are {shape[1]}x{shape[2]}; yuv420p needs an even height and width")
    if audio is not None and (audio.dtype != np.float32 or audio.ndim != 1 or not len(audio)):
        raise ValueError(f"audio is {audio.dtype} {audio.shape}, not float32 [samples]")


def _add_video(container: Any, frames_nhwc: npt.NDArray[np.uint8], fps: float) -> Any:
    stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=_H264)
    stream.height, stream.width = frames_nhwc.shape[1:3]
    stream.pix_fmt = "yuv420p"
    _make_repeatable(stream)
    return stream


def _add_sound(container: Any, sample_rate_hz: int) -> Any:
    stream = container.add_stream("aac", rate=sample_rate_hz, layout="mono", options=_AAC)
    stream.bit_rate = _AUDIO_BITS_PER_S
    _make_repeatable(stream)
    return stream


def _make_repeatable(stream: Any) -> None:
    stream.codec_context.thread_count = 1
    stream.codec_context.flags |= Flags.bitexact


def _sound_frame(audio: npt.NDArray[np.float32], sample_rate_hz: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(audio[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = sample_rate_hz, 0, Fraction(1, sample_rate_hz)
    return frame
