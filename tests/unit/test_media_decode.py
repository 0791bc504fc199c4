import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_av.media.decode import MediaError, frame_times, probe, read_audio, read_frames
from llava_av.media.encode import write_clip
from llava_av.media.image import read_image
from tests.media_samples import (
    RATE_HZ,
    big_buck_bunny,
    click,
    grey_frames,
    remux,
    shade_index,
    write_audio,
    write_grey_clip,
    write_image,
    write_video,
)

DECODERS = ("pyav", "decord")
VARIABLE_S = (0.0, 0.1, 0.5, 0.55, 1.3, 1.4, 1.9)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_grey_clip(tmp_path_factory.mktemp("media") / "clip.mp4", click(1.0))


@pytest.fixture(scope="module")
def variable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("media") / "variable.mp4", VARIABLE_S, b_frames=2)


@given(
    duration_s=st.floats(0, 1e5),
    frames_per_s=st.floats(0.01, 100),
    max_frames=st.integers(1, 100),
)
def test_frame_times_are_ascending_centres_inside_the_clip(
    duration_s: float, frames_per_s: float, max_frames: int
) -> None:
    times = frame_times(duration_s, frames_per_s=frames_per_s, max_frames=max_frames)
    assert 1 <= len(times) <= max_frames
    assert len(times) <= max(1, math.floor(duration_s * frames_per_s + 0.5))
    assert all(0 <= time <= duration_s for time in times)
    assert times == sorted(times)
    assert times[0] == pytest.approx(duration_s - times[-1])


def test_frame_times_of_a_long_clip_cover_all_of_it() -> None:
    assert frame_times(2.0, frames_per_s=4, max_frames=32) == [0.125 + 0.25 * i for i in range(8)]
    assert frame_times(100.0, frames_per_s=4, max_frames=4) == [12.5, 37.5, 62.5, 87.5]


def test_probe_returns_the_properties_of_a_clip(clip: Path) -> None:
    info = probe(clip)
    assert (info.kind, info.duration_s, info.frames, info.fps) == ("video", 2.0, 16, 8.0)
    assert (info.width, info.height, info.has_audio, info.sample_rate_hz) == (64, 64, True, RATE_HZ)


@pytest.mark.parametrize("decoder", DECODERS)
def test_frames_are_those_displayed_at_the_time(clip: Path, decoder: str) -> None:
    times = [0.0, 0.124, 0.125, 0.3, 1.0, 1.874, 1.875, 1.99]
    frames = read_frames(clip, times, size=32, decoder=decoder)
    assert frames.shape == (8, 32, 32, 3)
    assert frames.dtype == np.uint8
    assert shade_index(frames) == [0, 0, 1, 2, 8, 14, 15, 15]


@pytest.mark.parametrize("size", [8, 12, 16, 24, 48, 72])
def test_decord_returns_narrow_frames_without_their_padding(clip: Path, size: int) -> None:
    times = [0.0, 0.3, 1.0]
    frames = read_frames(clip, times, size=size, decoder="decord")
    assert frames.shape == (3, size, size, 3)
    assert np.array_equal(frames, read_frames(clip, times, size=size))


@pytest.mark.parametrize("decoder", DECODERS)
def test_frames_have_the_order_of_the_times(clip: Path, decoder: str) -> None:
    frames = read_frames(clip, [1.5, 0.2, 1.5, 99.0, -1.0], size=32, decoder=decoder)
    assert shade_index(frames) == [12, 1, 12, 15, 0]


@pytest.mark.parametrize("decoder", DECODERS)
def test_variable_frame_rate_goes_by_presentation_times(variable: Path, decoder: str) -> None:
    times = [0.05, 0.1, 0.49, 0.52, 0.56, 1.29, 1.3, 1.35, 1.89, 1.9]
    frames = read_frames(variable, times, size=64, decoder=decoder)
    assert shade_index(frames, step=31) == [0, 1, 1, 2, 3, 3, 4, 4, 5, 6]


def test_rounding_of_times_does_not_miss_a_frame(tmp_path: Path) -> None:
    write_clip(tmp_path / "ten.mp4", grey_frames(10), 10, None, RATE_HZ)
    frames = read_frames(tmp_path / "ten.mp4", [0.1 * i for i in range(10)], size=32)
    assert shade_index(frames) == list(range(10))


@pytest.mark.parametrize("b_frames", [0, 3])
def test_seeking_finds_the_same_frames_as_sequential_reading(tmp_path: Path, b_frames: int) -> None:
    times = [i * 0.04 for i in range(27)]
    path = write_video(tmp_path / "long.mp4", times, keyframe_every=6, b_frames=b_frames)
    all_of_them = read_frames(path, times, size=32)
    assert shade_index(all_of_them, step=8) == list(range(27))
    for wanted in ([0.2, 0.5, 1.05], [0.23, 0.24, 0.25], [1.04], [0.3, 0.72, 0.73, 1.0]):
        rows = [math.floor(time / 0.04 + 1e-6) for time in wanted]
        assert shade_index(read_frames(path, wanted, size=32), step=8) == rows


@pytest.mark.parametrize("name", ["live.mkv", "fragments.mp4", "stream.ts", "film.flv", "film.mov"])
def test_other_containers_give_the_same_frames(clip: Path, tmp_path: Path, name: str) -> None:
    options = {"live.mkv": {"live": "1"}, "fragments.mp4": {"movflags": "+frag_keyframe+empty_moov"}}
    path = remux(clip, tmp_path / name, options=options.get(name))
    info = probe(path)
    # Containers without an edit list keep the encoder's 64 ms of priming as audio before the first frame.
    assert info.duration_s == pytest.approx(2.0, abs=0.2)
    late_s = info.duration_s - 2.0
    frames = read_frames(path, [late_s + 0.0625 + 0.125 * i for i in range(16)], size=32)
    assert shade_index(frames) == list(range(16))
    sound = read_audio(path, sample_rate_hz=RATE_HZ, max_s=10)
    assert np.abs(sound).argmax() / RATE_HZ == pytest.approx(1.0 + late_s, abs=0.025)


def test_length_is_measured_where_no_header_states_it(tmp_path: Path) -> None:
    path = write_video(tmp_path / "live.mkv", VARIABLE_S, options={"live": "1"})
    assert 1.9 <= probe(path).duration_s <= 2.3
    raw = write_video(tmp_path / "raw.h264", [i * 0.04 for i in range(20)], format="h264")
    assert probe(raw).duration_s > 0
    assert shade_index(read_frames(raw, [0.0], size=32)) == [0]


@pytest.mark.parametrize("decoder", DECODERS)
def test_rotated_video_is_upright(tmp_path: Path, decoder: str) -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, :32] = 255
    write_clip(tmp_path / "plain.mp4", np.stack([picture] * 4), 4, None, RATE_HZ)
    turned = _with_rotation(tmp_path / "plain.mp4", tmp_path / "turned.mp4")
    frame = read_frames(turned, [0.1], size=32, decoder=decoder)[0]
    # Turned counter-clockwise by 90 degrees, the bright left half is the lower half.
    assert frame[20:].mean() > 220 > 30 > frame[:12].mean()


def _with_rotation(source: Path, target: Path) -> Path:
    import av

    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        stream.set_display_rotation(90)
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    return target


def test_decoders_agree_on_a_real_video() -> None:
    times = frame_times(5.28, frames_per_s=2, max_frames=32)
    frames = [read_frames(big_buck_bunny(), times, size=112, decoder=one) for one in DECODERS]
    difference = np.abs(frames[0].astype(int) - frames[1].astype(int))
    # Two releases of one scaler; measured: 7 at most, 0.17 on average at 224 pixels.
    assert difference.max() <= 12
    assert difference.mean() < 0.5


def test_decoders_agree_on_an_encoded_clip(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 30, (16, 64, 64, 3), dtype=np.uint8)
    write_clip(tmp_path / "a.mp4", grey_frames(16) + noise, 8, None, RATE_HZ)
    times = frame_times(2.0, frames_per_s=4, max_frames=32)
    frames = [read_frames(tmp_path / "a.mp4", times, size=32, decoder=one) for one in DECODERS]
    difference = np.abs(frames[0].astype(int) - frames[1].astype(int))
    # Measured: 20 at most (at edges of colour), 0.4 on average.
    assert difference.max() <= 30
    assert difference.mean() < 1.0


@pytest.mark.parametrize("at_s", [0.0, 0.3, 1.0, 1.9])
def test_audio_and_frames_share_one_clock(tmp_path: Path, at_s: float) -> None:
    path = write_grey_clip(tmp_path / "click.mp4", click(at_s))
    sound = read_audio(path, sample_rate_hz=RATE_HZ, max_s=10)
    assert sound.dtype == np.float32
    assert sound.shape == (2 * RATE_HZ,)
    assert np.abs(sound).argmax() / RATE_HZ == pytest.approx(at_s, abs=0.025)
    assert np.abs(sound[: max(0, round(at_s * RATE_HZ) - 400)]).max(initial=0) < 0.1


def test_audio_of_another_rate_is_resampled(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", grey_frames(16), 8, click(1.0, rate_hz=48_000), 48_000)
    sound = read_audio(tmp_path / "a.mp4", sample_rate_hz=RATE_HZ, max_s=10)
    assert sound.shape == (2 * RATE_HZ,)
    assert np.abs(sound).argmax() / RATE_HZ == pytest.approx(1.0, abs=0.025)


def test_audio_is_truncated_at_the_limit(clip: Path) -> None:
    assert len(read_audio(clip, sample_rate_hz=RATE_HZ, max_s=0.7)) == round(0.7 * RATE_HZ)
    assert len(read_audio(clip, sample_rate_hz=8_000, max_s=0.7)) == round(0.7 * 8_000)


@pytest.mark.parametrize(("name", "codec"), [("a.wav", "pcm_s16le"), ("a.wav", "pcm_u8"), ("a.flac", "flac")])
def test_channels_are_averaged(tmp_path: Path, name: str, codec: str) -> None:
    stereo = np.stack([np.full(4000, 0.5, np.float32), np.full(4000, -0.25, np.float32)])
    path = write_audio(tmp_path / name, stereo, RATE_HZ, codec)
    sound = read_audio(path, sample_rate_hz=RATE_HZ, max_s=1)
    assert sound[:3900] == pytest.approx(0.125, abs=0.01)
    assert probe(path).kind == "audio"


def test_audio_that_starts_late_begins_with_silence(tmp_path: Path) -> None:
    import av

    with (
        av.open(str(write_grey_clip(tmp_path / "v.mp4"))) as pictures,
        av.open(str(write_audio(tmp_path / "s.mp4", click(0.2)[None], RATE_HZ, "aac"))) as sound,
        av.open(str(tmp_path / "late.mp4"), "w") as new,
    ):
        streams = [new.add_stream_from_template(old.streams[0]) for old in (pictures, sound)]
        for old, stream, shift in zip((pictures, sound), streams, (0, RATE_HZ // 2), strict=True):
            for packet in old.demux():
                if packet.dts is not None and packet.pts is not None:
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packet.stream = stream
                    new.mux(packet)
    decoded = read_audio(tmp_path / "late.mp4", sample_rate_hz=RATE_HZ, max_s=10)
    assert np.abs(decoded).argmax() / RATE_HZ == pytest.approx(0.7, abs=0.07)
    assert np.abs(decoded[: round(0.4 * RATE_HZ)]).max() == 0


def test_a_missing_audio_track_is_not_silence(tmp_path: Path) -> None:
    without = write_grey_clip(tmp_path / "without.mp4")
    silent = write_grey_clip(tmp_path / "silent.mp4", np.zeros(2 * RATE_HZ, np.float32))
    assert not probe(without).has_audio
    assert probe(silent).has_audio
    assert not read_audio(silent, sample_rate_hz=RATE_HZ, max_s=10).any()
    with pytest.raises(MediaError, match=r"without\.mp4: has no audio track"):
        read_audio(without, sample_rate_hz=RATE_HZ, max_s=10)


def test_an_audio_file_has_no_frames(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav", click(0.5)[None], RATE_HZ, "pcm_s16le")
    with pytest.raises(MediaError, match=r"a\.wav: has no video track"):
        read_frames(path, [0.0], size=32)


def test_a_real_video_with_six_channels() -> None:
    info = probe(big_buck_bunny())
    assert (info.kind, info.duration_s, info.frames, info.fps) == ("video", 5.28, 132, 25.0)
    sound = read_audio(big_buck_bunny(), sample_rate_hz=RATE_HZ, max_s=2.0)
    assert sound.shape == (2 * RATE_HZ,)
    assert 0.001 < sound.std() < 0.5


@pytest.mark.parametrize(("name", "codec"), [("a.png", "png"), ("a.jpg", "mjpeg"), ("named.mp4", "png")])
def test_images_are_read_under_any_name(tmp_path: Path, name: str, codec: str) -> None:
    picture = np.zeros((48, 96, 3), np.uint8)
    picture[:, 48:] = (200, 30, 40)
    path = write_image(tmp_path / name, picture, codec)
    info = probe(path)
    assert (info.kind, info.duration_s, info.width, info.height) == ("image", 0.0, 96, 48)
    image = read_image(path, side=32)
    assert image.shape == (32, 32, 3)
    assert np.abs(image[:, 20:].astype(int) - (200, 30, 40)).max() < 12
