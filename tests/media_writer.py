"""Writer of small media files with known tracks, with the encoders of PyAV.

Each video frame has a unique brightness and four different quarters, so that tests detect wrong, mirrored and
rotated frames. Audio is a rising sweep, so that tests detect errors in time.
"""

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.stream import Disposition

HEIGHT, WIDTH = 48, 64
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
_INTRA = ("mjpeg", "ffv1", "prores_ks", "rawvideo", "huffyuv")
_SLOW_CODECS = {
    "libx264": {"preset": "ultrafast"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"},
    "libsvtav1": {"preset": "12", "svtav1-params": "lp=1"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8"},
}


@dataclass(frozen=True, kw_only=True)
class Video:
    """Video track of a file."""

    codec: str = "libx264"
    duration_s: float = 2.0
    start_s: float = 0.0
    fps: Fraction = Fraction(10)
    gop: int = 12
    b_frames: int = 0
    pix_fmt: str = "yuv420p"
    rotation: int = 0
    hflip: bool = False
    vflip: bool = False
    uneven: bool = False
    """True if frames last 1 and 3 intervals alternately."""
    open_gop: bool = False
    """True if frames before a keyframe may refer to it; H.264 only."""

    @property
    def places(self) -> list[int]:
        """Return the start of a frame in frame intervals from time 0."""
        first = round(self.start_s * self.fps)
        count = round(self.duration_s * self.fps)
        return [first + index for index in range(count) if not self.uneven or index % 4 in (0, 1)]


@dataclass(frozen=True, kw_only=True)
class Audio:
    """Audio track of a file."""

    codec: str = "aac"
    duration_s: float = 2.0
    start_s: float = 0.0
    rate_hz: int = 44_100
    channels: int = 1


def frame_of(index: int) -> npt.NDArray[np.uint8]:
    """Return frame `[HEIGHT, WIDTH, 3]` with four different quarters; two encode its number (below 64)."""
    frame = np.full((HEIGHT, WIDTH, 3), 40 + 24 * (index % 8), np.uint8)
    frame[: HEIGHT // 2, : WIDTH // 2] = (235, 20, 20)
    frame[: HEIGHT // 2, WIDTH // 2 :] = (20, 40 + 24 * (index // 8), 20)
    frame[HEIGHT // 2 :, : WIDTH // 2, 2] = 235
    return frame


def sweep(duration_s: float, rate_hz: int, channels: int) -> npt.NDArray[np.float32]:
    """Return audio `[channels, samples]` in -0.5 to 0.5 that rises from 200 Hz to at most 1,500 Hz."""
    times_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    top_hz = min(1500.0, 0.2 * rate_hz)
    low_hz = min(200.0, top_hz / 8)
    phase = 2 * np.pi * (low_hz * times_s + (top_hz - low_hz) / (2 * max(duration_s, 1e-9)) * times_s**2)
    return np.stack([0.5 * np.sin(phase) / (1 + channel) for channel in range(channels)]).astype(np.float32)


def write(
    path: Path,
    *,
    format: str,
    video: Video | None = None,
    audio: tuple[Audio, ...] = (),
    second_video: Video | None = None,
    subtitles_until_s: float = 0.0,
    cover: bool = False,
    options: tuple[tuple[str, str], ...] = (),
) -> None:
    """Write a media file whose tracks are interleaved by time."""
    packets: list[Any] = []
    with (
        same_scheduling(),
        av.open(str(path), "w", format=format, options={"fflags": "+bitexact"} | dict(options)) as container,
    ):
        videos = [track for track in (video, second_video) if track is not None]
        encoders = [(_video_frames(track), _add_video(container, track, format)) for track in videos]
        encoders += [(_audio_frames(track), _add_audio(container, track)) for track in audio]
        subtitles = _add_subtitles(container) if subtitles_until_s else None
        picture = _add_cover(container) if cover else None
        container.start_encoding()
        for frames, stream in encoders:
            for frame in [*frames(stream), None]:
                packets += stream.encode(frame)
        if picture is not None:
            packets += _cover_packets(picture)
        if subtitles is not None:
            packets += _subtitle_packets(subtitles, subtitles_until_s)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)


@contextlib.contextmanager
def same_scheduling() -> Iterator[None]:
    """Undo the real-time scheduling that SVT-AV1 sets for root's processes, which starves others."""
    linux = hasattr(os, "sched_setscheduler")
    policy = (os.sched_getscheduler(0), os.sched_getparam(0)) if linux else None
    try:
        yield
    finally:
        if policy is not None:
            os.sched_setscheduler(0, *policy)


def _add_video(container: Any, track: Video, format: str) -> Any:
    settings = dict(_SLOW_CODECS.get(track.codec, {}))
    if track.codec not in _INTRA:
        settings |= {"g": str(track.gop)}
    if track.open_gop:
        settings |= {"preset": "medium", "x264-params": "open-gop=1:scenecut=0"}
    if track.b_frames:
        settings |= {"bf": str(track.b_frames)}
    stream = container.add_stream(track.codec, rate=track.fps, options=settings)
    stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, track.pix_fmt
    stream.codec_context.thread_count = 1
    if track.codec not in ("libsvtav1", "mpeg1video", "mpeg2video", "mpeg4", "libvpx", "libvpx-vp9"):
        stream.codec_context.time_base = 1 / (track.fps * 8) if track.uneven else 1 / track.fps
    if track.rotation or track.hflip or track.vflip:
        stream.set_display_rotation(track.rotation, hflip=track.hflip, vflip=track.vflip)
    return stream


def _add_audio(container: Any, track: Audio) -> Any:
    # FFmpeg marks its Vorbis encoder as experimental.
    options = {"strict": "experimental"} if track.codec == "vorbis" else {}
    layout = _LAYOUTS[track.channels]
    stream = container.add_stream(track.codec, rate=track.rate_hz, layout=layout, options=options)
    if track.codec == "wmav2":
        stream.bit_rate = 128_000
    return stream


def _video_frames(track: Video) -> Callable[[Any], list[Any]]:
    def frames(stream: Any) -> list[Any]:
        made = []
        for place in track.places:
            frame = av.VideoFrame.from_ndarray(frame_of(place - track.places[0]), format="rgb24")
            frame = frame.reformat(format=track.pix_fmt)
            frame.pts, frame.time_base = place, 1 / track.fps
            made.append(frame)
        return made

    return frames


def _audio_frames(track: Audio) -> Callable[[Any], list[Any]]:
    def frames(stream: Any) -> list[Any]:
        sound = sweep(track.duration_s, track.rate_hz, track.channels)
        layout = _LAYOUTS[track.channels]
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound), format="fltp", layout=layout)
        frame.sample_rate, frame.time_base = track.rate_hz, Fraction(1, track.rate_hz)
        frame.pts = round(track.start_s * track.rate_hz)
        return [frame]

    return frames


def _add_subtitles(container: Any) -> Any:
    source = io.BytesIO(b"1\n00:00:00,500 --> 00:00:01,500\nA line of text.\n")
    with av.open(source, format="srt") as old:
        return container.add_stream_from_template(old.streams[0])


def _subtitle_packets(stream: Any, until_s: float) -> list[Any]:
    packets = []
    for start_s in (0.5, until_s - 1):
        packet = av.Packet(b"A line of text.")
        packet.stream, packet.time_base = stream, Fraction(1, 1000)
        packet.pts = packet.dts = round(start_s * 1000)
        packet.duration = 1000
        packets.append(packet)
    return packets


def _add_cover(container: Any) -> Any:
    stream = container.add_stream("mjpeg", rate=1)
    stream.height, stream.width, stream.pix_fmt = 16, 16, "yuvj420p"
    stream.disposition = Disposition.attached_pic
    return stream


def _cover_packets(stream: Any) -> list[Any]:
    frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 90, np.uint8), format="rgb24")
    return [*stream.encode(frame), *stream.encode(None)]
