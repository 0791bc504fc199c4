"""Truncated files, and intact files that look truncated."""

import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from llava_av.media.check import check_media
from llava_av.media.container import MediaError, probe
from llava_av.media.decode import read_audio, read_frames
from tests.media_corpus import VIDEO_AND_AUDIO
from tests.media_samples import cut
from tests.media_writer import Audio, Video, write

ENTRIES = {entry.name: entry for entry in VIDEO_AND_AUDIO}
RATE_HZ = 44_100
JUNK = bytes(range(1, 200)) * 2


def _make(name: str, folder: Path) -> Path:
    ENTRIES[name].make(folder / name)
    return folder / name


# Formats whose header or index states a length, unlike transport streams.
@pytest.mark.parametrize(
    "name",
    [
        "h264.mp4", "faststart.mp4", "fragments.mp4", "phone.mov", "h264.mkv", "ffv1.mkv", "vp9.webm",
        "offset.mkv", "second_audio.mkv", "subtitles.mkv", "xvid.avi", "windows.wmv", "h264.flv", "cd.wav",
        "telephone.wav", "adpcm.wav", "archive.wav", "long.w64", "mac.aiff", "unix.au", "apple.caf",
        "music.flac", "music.mp3",
        "music.m4a", "music.mka", "music.wma",
    ],
)  # fmt: skip
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncation_is_found(name: str, share: float, tmp_path: Path) -> None:
    short = cut(_make(name, tmp_path), tmp_path / f"short{Path(name).suffix}", share)
    with pytest.raises(MediaError, match=r"truncated|damaged"):
        check_media(short)


@pytest.mark.parametrize(
    "name", ["broadcast.ts", "vcd.mpg", "stream.aac", "voice.amr", "voice.opus", "audio.ts"]
)
def test_truncated_streams_are_accepted(name: str, tmp_path: Path) -> None:
    short = cut(_make(name, tmp_path), tmp_path / f"short{Path(name).suffix}", 0.6)
    assert 0 < check_media(short).duration_s <= probe(tmp_path / name).duration_s


def test_recording_that_begins_within_a_group_of_frames_is_read(tmp_path: Path) -> None:
    path = _make("broadcast.ts", tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[188 * (len(content) // 188 * 3 // 10) :])
    info = check_media(path)
    assert 1 < info.duration_s < 2
    assert len(read_frames(path, [0.0, info.duration_s / 2, info.duration_s], size=32)) == 3


def test_a_file_with_only_a_header_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(_wav(16_000, 0))
    with pytest.raises(MediaError, match="does not decode at all"):
        check_media(path)


def _placeholder(size: int) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        at = content.index(b"data") + 4
        riff = struct.pack("<I", min(size + at, 2**32 - 1) if size else 0)
        return content[:4] + riff + content[8:at] + struct.pack("<I", size) + content[at + 4 :]

    return change


def _ds64_without_sizes(content: bytes) -> bytes:
    at = content.index(b"ds64") + 8
    return content[:at] + bytes(24) + content[at + 24 :]


@pytest.mark.parametrize("name", ["cd.wav", "bytes.wav", "telephone.wav", "deep.wav"])
@pytest.mark.parametrize(
    "size", [0, 0xFFFFFFFF, 0xFFFFFFFF - 36, 0x7FFFFFFF, 0x7FFFFFFF - 36, 0x7FFFF000, 0x80000000]
)
def test_a_wav_written_to_a_pipe_is_complete(name: str, size: int, tmp_path: Path) -> None:
    path = _make(name, tmp_path)
    path.write_bytes(_placeholder(size)(path.read_bytes()))
    assert check_media(path).duration_s == pytest.approx(2.0)
    assert len(read_audio(path, sample_rate_hz=16_000, max_s=30)) == 32_000


def test_an_rf64_written_to_a_pipe_is_complete(tmp_path: Path) -> None:
    path = _make("archive.wav", tmp_path)
    path.write_bytes(_ds64_without_sizes(path.read_bytes()))
    assert check_media(path).duration_s == pytest.approx(2.0)
    assert len(read_audio(path, sample_rate_hz=16_000, max_s=30)) == 32_000


@pytest.mark.parametrize("size", [600_000, 0x70000000])
def test_wav_that_states_more_than_it_has_is_truncated(size: int, tmp_path: Path) -> None:
    path = _make("cd.wav", tmp_path)
    path.write_bytes(_placeholder(size)(path.read_bytes()))
    with pytest.raises(
        MediaError, match=rf"is truncated: its header states {size + 44} bytes, .*; copy it again"
    ):
        check_media(path)


def test_flac_without_a_length_is_measured(tmp_path: Path) -> None:
    path = _make("music.flac", tmp_path)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    path.write_bytes(content)
    assert check_media(path).duration_s == pytest.approx(2.0)


@pytest.mark.parametrize("times", [2, 3])
@pytest.mark.parametrize("name", ["music.mp3", "mono.mp3", "cover.mp3", "stream.aac"])
def test_joined_files_are_read_whole(name: str, times: int, tmp_path: Path) -> None:
    path = _make(name, tmp_path)
    joined = tmp_path / f"joined{path.suffix}"
    joined.write_bytes(path.read_bytes() * times)
    one_s = probe(path).duration_s
    assert check_media(joined).duration_s == pytest.approx(times * one_s, abs=0.15 * times)
    sound = read_audio(joined, sample_rate_hz=16_000, max_s=30)
    assert len(sound) / 16_000 == pytest.approx(times * one_s, abs=0.15 * times)
    last = sound[-round(one_s * 16_000 / 2) :]
    assert last.std() > 0.1


@pytest.mark.parametrize("where", ["front", "middle", "end", "zeros", "tag"])
@pytest.mark.parametrize("name", ["music.mp3", "stream.aac"])
def test_junk_that_players_skip_is_skipped(name: str, where: str, tmp_path: Path) -> None:
    path = _make(name, tmp_path)
    content, length_s = path.read_bytes(), probe(path).duration_s
    half = len(content) // 2
    path.write_bytes(
        {
            "front": JUNK + content,
            "middle": content[:half] + JUNK + content[half:],
            "end": content + JUNK,
            "zeros": content + bytes(5000),
            "tag": content + b"TAG" + b"x" * 125,
        }[where]
    )
    assert check_media(path).duration_s == pytest.approx(length_s, abs=0.15)
    assert len(read_audio(path, sample_rate_hz=16_000, max_s=30)) / 16_000 == pytest.approx(
        length_s, abs=0.15
    )


def test_audio_that_is_mostly_junk_is_damaged(tmp_path: Path) -> None:
    path = _make("music.mp3", tmp_path)
    content = bytearray(path.read_bytes())
    for at in range(2000, len(content) - 400, 800):
        content[at : at + 400] = np.random.default_rng(at).bytes(400)
    path.write_bytes(content)
    with pytest.raises(MediaError, match="damaged"):
        check_media(path)


@pytest.mark.parametrize(
    ("format", "codec", "named"),
    [("ac3", "ac3", "AC-3 audio"), ("wv", "wavpack", "WavPack"), ("tta", "tta", "True Audio")],
)
def test_other_formats_are_named(format: str, codec: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / f"music.{format}"
    write(path, format=format, audio=(Audio(codec=codec, rate_hz=48_000),))
    _assert_unsupported(path, named)


@pytest.mark.parametrize(
    ("head", "named"),
    [
        (b"\x7f\xfe\x80\x01", "DTS audio"),
        (b"\xfe\x7f\x01\x80", "DTS audio"),
        (b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02", "MXF"),
        (b".RMF\0\0\0\x12", "RealMedia"),
        (b"MThd\0\0\0\6", "MIDI"),
        (b"\xff\x0a\xfa\x1f", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"8BPS\0\1", "Photoshop's PSD"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\x76\x2f\x31\x01\2\0", "OpenEXR"),
    ],
)
def test_other_formats_are_named_by_their_first_bytes(head: bytes, named: str, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(head + np.random.default_rng(0).bytes(5000))
    _assert_unsupported(tmp_path / "clip.mp4", named)


def test_a_git_lfs_pointer_is_named(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 12\n"
    )
    with pytest.raises(MediaError, match=r"is a Git LFS pointer, .*: run `git lfs pull`"):
        check_media(tmp_path / "clip.mp4")


def _assert_unsupported(path: Path, named: str) -> None:
    with pytest.raises(MediaError, match=rf"is {named}.*, which is not supported; convert it to") as caught:
        check_media(path)
    assert "damaged" not in caught.value.reason
    assert "copy it again" not in caught.value.reason


@pytest.mark.parametrize("rate_hz", [1, 7, 100, 11_127, 22_051, 44_099, 44_101, 655_350, 768_000])
def test_any_rate_of_audio_is_read(rate_hz: int, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(_wav(rate_hz, 1000))
    assert check_media(path).sample_rate_hz == rate_hz
    sound = read_audio(path, sample_rate_hz=16_000, max_s=10)
    assert len(sound) == min(160_000, -(-1000 * 16_000 // rate_hz))


@pytest.mark.parametrize("rate_hz", [768_001, 2_822_400, 2**31 - 1])
def test_rates_that_no_audio_has_are_refused_by_the_header(rate_hz: int, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(_wav(rate_hz, 1000))
    for read in (probe, check_media, lambda path: read_audio(path, sample_rate_hz=16_000, max_s=10)):
        with pytest.raises(MediaError, match=f"its header states {rate_hz:,} audio samples per second"):
            read(path)


@pytest.mark.parametrize("rate_hz", [0, 2**31, 2**32 - 1])
def test_rates_that_ffmpeg_refuses_are_one_line(rate_hz: int, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(_wav(rate_hz, 1000))
    with pytest.raises(MediaError):
        check_media(path)


def test_gap_of_days_in_the_times_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "gap.mka"
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        for start_s in (0, 10_000_000):
            frame = av.AudioFrame.from_ndarray(np.full((1, 8000), 9000, np.int16), "s16", "mono")
            frame.sample_rate, frame.pts = 8000, start_s * 8000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    sound = read_audio(path, sample_rate_hz=16_000, max_s=20)
    assert len(sound) == 320_000
    assert sound[:15_000].min() > 0.2
    assert not sound[16_000:].any()


def _wav(rate_hz: int, samples: int) -> bytes:
    data = (np.arange(samples) % 100).astype("<i2").tobytes()
    header = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate_hz, rate_hz * 2 % 2**32, 2, 16)
    body = b"WAVE" + header + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def test_frames_larger_than_any_video_are_refused_by_the_header(tmp_path: Path) -> None:
    path = tmp_path / "raw.avi"
    write(path, format="avi", video=Video(codec="rawvideo"))
    content = bytearray(path.read_bytes())
    at = content.index(b"strf") + 8
    content[at + 4 : at + 12] = struct.pack("<ii", 16_384, 8_192)
    path.write_bytes(content)
    with pytest.raises(MediaError, match=r"has frames of 16384 x 8192 pixels, more than 67,108,864"):
        probe(path)
