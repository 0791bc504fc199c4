import contextlib
import pickle
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llava_av.media.check import check_media
from llava_av.media.decode import MediaError, frame_times, probe, read_audio, read_frames
from tests.media_samples import (
    RATE_HZ,
    big_buck_bunny,
    click,
    cut,
    remux,
    write_audio,
    write_grey_clip,
    write_image,
)

FASTSTART = {"movflags": "+faststart"}
FRAGMENTS = {"movflags": "+frag_keyframe+empty_moov"}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_grey_clip(tmp_path_factory.mktemp("media") / "clip.mp4", click(1.0))


def test_intact_files_pass(clip: Path, tmp_path: Path) -> None:
    files = [
        clip,
        remux(clip, tmp_path / "front.mp4", options=FASTSTART),
        remux(clip, tmp_path / "fragments.mp4", options=FRAGMENTS),
        remux(clip, tmp_path / "film.mkv"),
        remux(clip, tmp_path / "film.ts"),
        write_audio(tmp_path / "a.wav", click(0.1)[None], RATE_HZ, "pcm_s16le"),
        write_audio(tmp_path / "a.flac", click(0.1)[None], RATE_HZ, "flac"),
        write_image(tmp_path / "a.png", np.zeros((32, 32, 3), np.uint8), "png"),
        big_buck_bunny(),
    ]
    for file in files:
        assert check_media(file) == probe(file)


def _index_at_the_end(clip: Path, folder: Path) -> Path:
    return clip


def _index_in_front(clip: Path, folder: Path) -> Path:
    return remux(clip, folder / "front.mp4", options=FASTSTART)


def _fragments(clip: Path, folder: Path) -> Path:
    return remux(clip, folder / "fragments.mp4", options=FRAGMENTS)


def _matroska(clip: Path, folder: Path) -> Path:
    return remux(clip, folder / "film.mkv")


def _wave(clip: Path, folder: Path) -> Path:
    return write_audio(folder / "a.wav", click(0.1)[None], RATE_HZ, "pcm_s16le")


@pytest.mark.parametrize("make", [_index_at_the_end, _index_in_front, _fragments, _matroska, _wave])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_files_are_found(
    clip: Path, tmp_path: Path, make: Callable[[Path, Path], Path], share: float
) -> None:
    whole = make(clip, tmp_path)
    short = cut(whole, tmp_path / f"cut{whole.suffix}", share)
    with pytest.raises(MediaError, match="truncated"):
        check_media(short)


def test_a_video_that_opens_without_its_data_is_found(tmp_path: Path) -> None:
    whole = remux(big_buck_bunny(), tmp_path / "whole.mp4", options=FASTSTART)
    short = cut(whole, tmp_path / "film.mp4")
    assert probe(short).duration_s == pytest.approx(5.28)
    with pytest.raises(MediaError, match=r"its index points up to byte 10\d+, the file has 633\d+;"):
        check_media(short)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty (0 bytes)"),
        (b"\0" * 5000, "is not a readable media file"),
        (b"<html><body>404 Not Found</body></html>\n" * 50, "is not a readable media file"),
        (b"Once upon a time.\n" * 300, "is not a readable media file"),
        (b'{"id": "a"}\n', "is not a readable media file"),
        (b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:2,\nclip.mp4\n", "is not a readable media file"),
        (b"ffconcat version 1.0\nfile clip.mp4\n", "is not a readable media file"),
        (b"PK\x03\x04" + b"\x14" * 3000, "is not a readable media file"),
        (np.random.default_rng(0).bytes(50_000), "is not a readable media file"),
        (b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41", "truncated"),
        (b"\0\0\2" + b"\0" * 9 + b"\3\0\2\0\x18\x20" + b"\7" * 18, "is a TGA image, which is not supported"),
        (b"\0\0\2" + b"\0" * 9 + b"\3\0\2\0\x18\x20" + b"\7" * 17, "is not a readable media file"),
    ],
)
@pytest.mark.parametrize("name", ["file.mp4", "file.txt", "file.m3u8"])
def test_files_that_are_not_media_are_refused_in_one_line(
    tmp_path: Path, name: str, content: bytes, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "clip.mp4").write_bytes(write_grey_clip(tmp_path / "source.mp4").read_bytes())
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MediaError) as caught:
        check_media(tmp_path / name)
    assert reason in caught.value.reason
    assert str(caught.value) == f"{tmp_path / name}: {caught.value.reason}"
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_paths_that_are_not_regular_files_are_refused(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    for name, reason in [
        ("pipe.mp4", "special file"),
        ("folder.mp4", "is a folder"),
        ("absent.mp4", "no such file"),
        ("x" * 300 + ".mp4", "cannot be read"),
    ]:
        with pytest.raises(MediaError, match=reason):
            check_media(tmp_path / name)


@pytest.mark.parametrize("kind", ["audio", "video"])
def test_damage_in_the_middle_is_found(clip: Path, tmp_path: Path, kind: str) -> None:
    source = clip if kind == "audio" else big_buck_bunny()
    with av.open(str(source)) as container:
        packets = [packet for packet in container.demux() if packet.stream.type == kind and packet.size]
        middle = packets[len(packets) // 2]
        start, size, shown_s = middle.pos, middle.size, float(middle.pts * middle.time_base)
    content = bytearray(source.read_bytes())
    content[start + 4 : start + size] = b"\xff" * (size - 4)
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(content)
    with pytest.raises(MediaError, match=rf"is damaged: (a part of )?its {kind} .*; copy it again"):
        check_media(damaged)
    assert shown_s > 0.5


def test_joined_audio_of_two_rates_is_read(tmp_path: Path) -> None:
    first = write_audio(tmp_path / "a.aac", click(0.5)[None], 16_000, "aac")
    second = write_audio(tmp_path / "b.aac", click(0.5)[None], 48_000, "aac")
    joined = tmp_path / "joined.aac"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    check_media(joined)
    sound = read_audio(joined, sample_rate_hz=RATE_HZ, max_s=10)
    first_s = len(read_audio(first, sample_rate_hz=RATE_HZ, max_s=10)) / RATE_HZ
    # Each has its click at 0.5 s, after the encoder's padding of 64 and 21 ms.
    clicks_s = [np.abs(half).argmax() / RATE_HZ for half in np.split(sound, [round(first_s * RATE_HZ)])]
    assert clicks_s == pytest.approx([0.564, 0.521], abs=0.03)


def test_checking_a_short_clip_is_quick(clip: Path) -> None:
    def seconds() -> float:
        started = time.perf_counter()
        check_media(clip)
        return time.perf_counter() - started

    # The minimum of several measures the work and not the load of the machine: 2 to 6 ms.
    assert min(seconds() for _ in range(20)) < 0.03


def test_error_survives_a_process_boundary() -> None:
    error = pickle.loads(pickle.dumps(MediaError(Path("a.mp4"), "is empty")))
    assert (error.path, error.reason, str(error)) == (Path("a.mp4"), "is empty", "a.mp4: is empty")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_anywhere_gives_a_media_error_or_nothing(
    clip: Path, tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(clip.read_bytes())
    start = data.draw(st.integers(0, len(content) - 1))
    content[start : start + 64] = data.draw(st.binary(min_size=1, max_size=64))
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(content)
    with contextlib.suppress(MediaError):
        info = check_media(damaged)
        if info.kind == "video":
            times = frame_times(info.duration_s, frames_per_s=4, max_frames=8)
            assert len(read_frames(damaged, times, size=16)) == len(times)
        if info.has_audio:
            assert np.isfinite(read_audio(damaged, sample_rate_hz=info.sample_rate_hz or 1, max_s=2)).all()
