import errno
import os
from pathlib import Path

import numpy as np
import pytest

from llava_av.datasets.demo_scenes import FPS, SAMPLE_RATE_HZ, render_scene, scene_blocks
from llava_av.media.container import MediaError, probe
from llava_av.media.decode import read_audio, read_frames
from llava_av.media.encode import encode_clip, write_clip
from tests.media_samples import RATE_HZ, click, grey_frames


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    frames, sound = grey_frames(16), click(1.0)
    write_clip(tmp_path / "a.mp4", frames, 8, sound, RATE_HZ)
    write_clip(tmp_path / "b.mp4", frames.copy(), 8, sound.copy(), RATE_HZ)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data == (tmp_path / "b.mp4").read_bytes() == encode_clip(frames, 8, sound, RATE_HZ)
    assert data != encode_clip(frames, 8, click(1.1), RATE_HZ)
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "b.mp4"]


def test_a_scene_survives_encoding(tmp_path: Path) -> None:
    frames, sound = render_scene(scene_blocks(0, 1)[0][3], 3)
    write_clip(tmp_path / "a.mp4", frames, FPS, sound, SAMPLE_RATE_HZ)
    decoded = read_frames(tmp_path / "a.mp4", [index / FPS for index in range(len(frames))], size=64)
    # Measured: 2.7 on average; single pixels at edges of colour lie further off (4:2:0 subsampling).
    assert np.abs(decoded.astype(int) - frames).mean() < 5
    heard = read_audio(tmp_path / "a.mp4", sample_rate_hz=SAMPLE_RATE_HZ, max_s=10)
    assert heard.shape == sound.shape
    # Measured: 0.020 at most.
    assert np.abs(heard - sound).max() < 0.06


@pytest.mark.parametrize("fps", [8, 12.5, 30000 / 1001])
def test_frame_rate_and_length(tmp_path: Path, fps: float) -> None:
    write_clip(tmp_path / "a.mp4", grey_frames(16, size=32), fps, None, RATE_HZ)
    info = probe(tmp_path / "a.mp4")
    assert info.fps == pytest.approx(fps, rel=1e-6)
    assert info.duration_s == pytest.approx(16 / fps, abs=1e-3)
    assert not info.has_audio


def test_wrong_arrays_are_refused() -> None:
    frames, sound = grey_frames(2), click(0.5)
    for bad_frames, bad_sound in [
        (frames.astype(np.float32), sound),
        (frames[0], sound),
        (frames[:0], sound),
        (frames[:, :33], sound),
        (frames, sound.astype(np.float64)),
        (frames, sound[None]),
    ]:
        with pytest.raises(ValueError, match=r"frames are|audio is"):
            encode_clip(bad_frames, 8, bad_sound, RATE_HZ)


def test_failed_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "file").touch()
    with pytest.raises(MediaError, match=r"file/a\.mp4: cannot be written: "):
        write_clip(tmp_path / "file" / "a.mp4", grey_frames(2), 8, None, RATE_HZ)
    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(MediaError, match=r"a\.mp4: cannot be written: No space left on device"):
        write_clip(tmp_path / "a.mp4", grey_frames(2), 8, None, RATE_HZ)
    assert os.listdir(tmp_path) == ["file"]
