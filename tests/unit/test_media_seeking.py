"""Frames found by seeking equal those of a decoding from start to end, in fewer decoding steps."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from llava_av.datasets.loading import load_video
from llava_av.media import seeking
from llava_av.media.decode import frame_times, probe, read_audio, read_frames
from llava_av.recipe import MediaRecipe
from tests.media_samples import RATE_HZ, big_buck_bunny, remux

FRAMES, GROUP = 60, 10
TICKS = 90_000
SIZE = 64


@dataclass(frozen=True, kw_only=True)
class Film:
    """A video of noise and the way it is stored."""

    name: str
    codec: str = "libx264"
    codec_options: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    pts: Sequence[int] = tuple(number * 3000 for number in range(FRAMES))


def x264(**more: int | str) -> dict[str, str]:
    settings = {"keyint": GROUP, "bframes": 3, "b-adapt": 0, "scenecut": 0, **more}
    return {"preset": "ultrafast", "x264-params": _joined(settings)}


def x265(**more: int) -> dict[str, str]:
    return {"x265-params": _joined({"keyint": GROUP, "log-level": "none", **more})}


def _joined(settings: dict[str, int | str]) -> str:
    return ":".join(f"{name}={value}" for name, value in settings.items())


UNEVEN = tuple(number * 3000 + number * number % 7 * 350 for number in range(FRAMES))
MPEG = {"g": str(GROUP), "bf": "2"}
FILMS = (
    Film(name="closed.mp4", codec_options=x264()),
    Film(name="open.mp4", codec_options=x264(**{"open-gop": 1})),
    Film(name="ordered.mp4", codec_options=x264(bframes=0)),
    Film(name="uneven.mp4", codec_options=x264(), pts=UNEVEN),
    Film(name="uneven-open.mp4", codec_options=x264(**{"open-gop": 1}), pts=UNEVEN),
    Film(
        name="late.mp4", codec_options=x264(), pts=tuple(45_000 + number * 3000 for number in range(FRAMES))
    ),
    Film(name="no-edit-list.mp4", codec_options=x264(), options={"use_editlist": "0"}),
    Film(name="negative.mp4", codec_options=x264(), options={"movflags": "negative_cts_offsets"}),
    Film(name="fragments.mp4", codec_options=x264(), options={"movflags": "frag_keyframe+empty_moov"}),
    Film(name="pyramid.mp4", codec_options=x264(**{"b-pyramid": "normal", "ref": 4})),
    Film(name="long-groups.mp4", codec_options=x264(keyint=FRAMES, bframes=5)),
    Film(name="interlaced.mkv", codec_options=x264(tff=1)),
    Film(name="hevc.mp4", codec="libx265", codec_options=x265()),
    Film(name="hevc.mkv", codec="libx265", codec_options=x265(keyint=FRAMES)),
    Film(name="layers.mp4", codec="libx265", codec_options=x265(keyint=FRAMES, **{"temporal-layers": 3})),
    Film(name="mpeg2.mp4", codec="mpeg2video", codec_options=MPEG),
    Film(name="open.mkv", codec_options=x264(**{"open-gop": 1})),
    Film(name="vp9.webm", codec="libvpx-vp9", codec_options={"g": str(GROUP), "deadline": "realtime"}),
    Film(name="open.ts", codec_options=x264(**{"open-gop": 1})),
    Film(name="closed.flv", codec_options=x264()),
    Film(name="mpeg4.avi", codec="mpeg4", codec_options=MPEG),
)


def write(film: Film, folder: Path) -> Path:
    rng = np.random.default_rng(0)
    with av.open(str(folder / film.name), "w", options=film.options) as container:
        stream: Any = container.add_stream(film.codec, rate=30, options=film.codec_options)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        if film.codec in ("libx264", "libx265"):
            stream.codec_context.time_base = Fraction(1, TICKS)
        stream.codec_context.thread_count = 1
        for pts in film.pts:
            noise = rng.integers(0, 255, (SIZE // 8, SIZE // 8, 3), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(noise.repeat(8, 0).repeat(8, 1), format="rgb24")
            frame.pts, frame.time_base = pts, Fraction(1, TICKS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return folder / film.name


def decoded_in_sequence(path: Path) -> tuple[list[float], np.ndarray]:
    """Return the time of each frame since the first one, and the frames; nothing is skipped."""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        frames = list(container.decode(video=0))
    ticks = [frame.pts for frame in frames]
    assert ticks == sorted(ticks)
    times = [float((pts - ticks[0]) * frame.time_base) for pts, frame in zip(ticks, frames, strict=True)]
    return times, np.stack([frame.to_ndarray(format="rgb24") for frame in frames])


def whole(path: Path, times_s: Sequence[float]) -> np.ndarray:
    return read_frames(path, times_s, size=SIZE, resize=lambda frame: frame)


@pytest.mark.parametrize("film", FILMS, ids=lambda film: film.name)
def test_every_frame_equals_that_of_a_decoding_from_the_start(film: Film, tmp_path: Path) -> None:
    path = write(film, tmp_path)
    starts, frames = decoded_in_sequence(path)
    assert len(starts) >= FRAMES - 1
    middle = [(start + end) / 2 for start, end in zip(starts, [*starts[1:], starts[-1] + 0.02], strict=True)]
    assert np.array_equal(whole(path, middle), frames)
    for number in range(0, len(starts), 3):
        assert np.array_equal(whole(path, [middle[number]]), frames[number : number + 1]), number
    for seed in range(6):
        rows = np.sort(np.random.default_rng(seed).choice(len(starts), 4, replace=False))
        assert np.array_equal(whole(path, [middle[row] for row in rows]), frames[rows]), rows


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the number of frames of each packet that is decoded."""
    counts: list[int] = []
    decode = seeking.frames_of_packet

    def counted(container: Any, packet: Any) -> Sequence[Any]:
        frames = decode(container, packet)
        counts.append(len(frames))
        return frames

    monkeypatch.setattr(seeking, "frames_of_packet", counted)
    return counts


@pytest.mark.parametrize(
    "name",
    ["closed.mp4", "open.mp4", "uneven.mp4", "late.mp4", "negative.mp4", "mpeg2.mp4", "open.mkv", "vp9.webm"],
)
def test_decoding_starts_at_the_last_keyframe_before_a_time(
    name: str, tmp_path: Path, decodes: list[int]
) -> None:
    path = write(next(film for film in FILMS if film.name == name), tmp_path)
    starts, frames = decoded_in_sequence(path)
    with av.open(str(path)) as container:
        is_key = [bool(frame.key_frame) for frame in container.decode(video=0)]
    keys = [number for number, key in enumerate(is_key) if key]
    assert len(keys) >= FRAMES // (GROUP + 3)
    for row in (keys[2], keys[3] + 4, keys[4] - 1):
        decodes.clear()
        assert np.array_equal(whole(path, [starts[row] + 0.004]), frames[row : row + 1])
        needed = row - max(key for key in keys if key <= row) + 1
        # The frame after the last one shows that the last one is displayed; leading frames may be decoded.
        assert sum(decodes) <= needed + 1 + 3, row


def test_every_frame_is_decoded_once_if_all_are_wanted(tmp_path: Path, decodes: list[int]) -> None:
    path = write(FILMS[0], tmp_path)
    starts, _ = decoded_in_sequence(path)
    whole(path, starts)
    assert sum(decodes) == FRAMES


@pytest.mark.parametrize(
    ("name", "fewer"),
    [
        ("long-groups.mp4", True),
        ("pyramid.mp4", True),
        ("hevc.mkv", True),
        ("layers.mp4", False),
        ("open.ts", False),
    ],
)
def test_frames_without_use_are_not_decoded(
    name: str, fewer: bool, tmp_path: Path, decodes: list[int]
) -> None:
    path = write(next(film for film in FILMS if film.name == name), tmp_path)
    starts, frames = decoded_in_sequence(path)
    rows = list(range(4, len(starts), GROUP - 1))
    assert np.array_equal(whole(path, [starts[row] + 0.004 for row in rows]), frames[rows])
    assert (sum(decodes) < 0.7 * rows[-1]) == fewer
    assert sum(decodes) >= len(rows)


def with_audio(name: str, folder: Path) -> Path:
    container = {"film.mp4": "film.mp4", "film.mkv": "film.mkv", "film.ts": "film.ts"}[name]
    return remux(big_buck_bunny(), folder / container)


@pytest.mark.parametrize(("name", "opened"), [("film.mp4", 1), ("film.ts", 3), ("film.mkv", 2)])
def test_a_video_is_read_from_one_open_file(
    name: str, opened: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = with_audio(name, tmp_path)
    media = MediaRecipe(frames_per_s=1, max_frames=8, frame_size=32, sample_rate_hz=RATE_HZ, max_audio_s=2.0)
    times_s = frame_times(probe(path).duration_s, frames_per_s=1, max_frames=8)
    frames = read_frames(path, times_s, size=32)
    audio = read_audio(path, sample_rate_hz=RATE_HZ, max_s=2.0)
    opens = []
    really = av.open
    monkeypatch.setattr(av, "open", lambda *given, **named: opens.append(given) or really(*given, **named))
    video = load_video(path, media)
    assert len(opens) == opened
    assert video.frame_times_s == tuple(times_s)
    assert np.array_equal(video.frames_nhwc, frames)
    assert video.audio is not None
    assert np.array_equal(video.audio, audio)
    assert load_video(path, media, use_audio=False).audio is None
