"""Encoding of short clips as MP4 files (H.264 and AAC) and of images as JPEG."""

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.codec.context import Flags

from llava_av.files import write_whole
from llava_av.media.clip import FramesArray, ImageArray, Waveform
from llava_av.media.container import MediaError

__all__ = ["encode_clip", "encode_jpeg", "encoder_version", "write_clip"]

_AUDIO_BITS_PER_S = 64_000
# On short mono tones the fast coder is faster (5 ms instead of 10 ms for 2 s) and closer to the original.
_AAC = {"aac_coder": "fast"}
# CRF 18 keeps the colours of small frames; without B-frames, decoding order is presentation order.
_H264 = {"preset": "veryfast", "crf": "18", "bf": "0"}


def write_clip(
    path: Path,
    frames_nhwc: FramesArray,
    fps: float,
    audio: Waveform | None,
    sample_rate_hz: int,
) -> None:
    """Write a clip as an MP4 file, atomically; equal input gives equal bytes.

    Args:
        path: File to write; its folder must exist.
        frames_nhwc: RGB frames `[frames, height, width, 3]`; height and width are even.
        fps: Frames per second.
        audio: Mono samples `[samples]` in -1 to 1; None writes no audio track.
        sample_rate_hz: Samples per second of `audio`.

    Raises:
        MediaError: The file cannot be written.
        ValueError: An array has a wrong shape or type.
    """
    data = encode_clip(frames_nhwc, fps, audio, sample_rate_hz)
    try:
        write_whole(path, data)
    except OSError as error:
        raise MediaError(path, f"cannot be written: {error.strerror or error}") from None


def encode_clip(
    frames_nhwc: FramesArray,
    fps: float,
    audio: Waveform | None,
    sample_rate_hz: int,
) -> bytes:
    """Return the bytes that `write_clip` writes; same arguments."""
    _check(frames_nhwc, audio)
    target = io.BytesIO()
    with av.open(target, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        video = _add_video(container, frames_nhwc, fps)
        track = None if audio is None else _add_audio(container, sample_rate_hz)
        for index, frame_hwc in enumerate(frames_nhwc):
            frame = av.VideoFrame.from_ndarray(frame_hwc, format="rgb24")
            frame.pts, frame.time_base = index, 1 / Fraction(video.codec_context.rate)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if track is not None and audio is not None:
            container.mux(track.encode(_audio_frame(audio, sample_rate_hz)))
            container.mux(track.encode(None))
    return target.getvalue()


def encode_jpeg(image_hwc: ImageArray) -> bytes:
    """Encode an RGB image `[height, width, 3]` as JPEG; equal input gives equal bytes."""
    target = io.BytesIO()
    with av.open(target, "w", format="mjpeg", options={"fflags": "+bitexact"}) as container:
        stream: Any = container.add_stream("mjpeg", rate=1, options={"qmin": "2", "qmax": "4"})
        stream.height, stream.width = image_hwc.shape[:2]
        stream.pix_fmt = "yuvj444p"
        _make_repeatable(stream)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image_hwc), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return target.getvalue()


def encoder_version() -> str:
    """Return the version of the codec library: another one may write other bytes for equal input."""
    return ".".join(str(part) for part in av.library_versions["libavcodec"])


def _check(frames_nhwc: FramesArray, audio: Waveform | None) -> None:
    shape = frames_nhwc.shape
    if frames_nhwc.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or not shape[0]:
        raise ValueError(f"frames are {frames_nhwc.dtype} {shape}, not uint8 [n, height, width, 3]")
    if shape[1] % 2 or shape[2] % 2:
        raise ValueError(f"frames are {shape[1]}x{shape[2]}; yuv420p needs an even height and width")
    if audio is not None and (audio.dtype != np.float32 or audio.ndim != 1 or not len(audio)):
        raise ValueError(f"audio is {audio.dtype} {audio.shape}, not float32 [samples]")


def _add_video(container: Any, frames_nhwc: FramesArray, fps: float) -> Any:
    stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=_H264)
    stream.height, stream.width = frames_nhwc.shape[1:3]
    stream.pix_fmt = "yuv420p"
    _make_repeatable(stream)
    return stream


def _add_audio(container: Any, sample_rate_hz: int) -> Any:
    stream = container.add_stream("aac", rate=sample_rate_hz, layout="mono", options=_AAC)
    stream.bit_rate = _AUDIO_BITS_PER_S
    _make_repeatable(stream)
    return stream


def _make_repeatable(stream: Any) -> None:
    stream.codec_context.thread_count = 1
    stream.codec_context.flags |= Flags.bitexact


def _audio_frame(audio: Waveform, sample_rate_hz: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(audio[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = sample_rate_hz, 0, Fraction(1, sample_rate_hz)
    return frame
