from pathlib import Path

import numpy as np
import pytest

from llava_av.datasets.loading import load_clip
from llava_av.datasets.schema import Sample, Turn
from llava_av.media.container import MediaError
from llava_av.recipe import MediaRecipe
from tests.media_samples import (
    RATE_HZ,
    big_buck_bunny,
    click,
    shade_index,
    write_audio,
    write_grey_clip,
    write_image,
)

MEDIA = MediaRecipe(frames_per_s=4, max_frames=8, frame_size=32, sample_rate_hz=RATE_HZ, max_audio_s=1.5)


def sample(**media: object) -> Sample:
    turns = (Turn(speaker="human", value="?"), Turn(speaker="gpt", value="!"))
    return Sample.model_validate({"id": "a", "conversations": turns, **media})


def test_all_media_in_the_samples_order(tmp_path: Path) -> None:
    write_grey_clip(tmp_path / "loud.mp4", click(1.0))
    write_grey_clip(tmp_path / "mute.mp4")
    write_audio(tmp_path / "a.wav", click(0.5)[None], RATE_HZ, "pcm_s16le")
    write_image(tmp_path / "a.png", np.full((32, 32, 3), 90, np.uint8), "png")
    clip = load_clip(tmp_path, sample(video=["loud.mp4", "mute.mp4"], audio="a.wav", image="a.png"), MEDIA)
    loud, mute = clip.videos
    assert loud.frames_nhwc.shape == mute.frames_nhwc.shape == (8, 32, 32, 3)
    assert loud.frame_times_s == tuple(0.125 + 0.25 * index for index in range(8))
    assert shade_index(loud.frames_nhwc) == [1, 3, 5, 7, 9, 11, 13, 15]
    assert loud.audio is not None
    assert loud.audio.shape == (round(1.5 * RATE_HZ),)
    assert np.abs(loud.audio).argmax() / RATE_HZ == pytest.approx(1.0, abs=0.025)
    assert mute.audio is None
    assert [len(sound) for sound in clip.audios] == [round(1.5 * RATE_HZ)]
    assert [image.shape for image in clip.images_nhwc] == [(32, 32, 3)]


def test_audio_is_skipped_if_it_is_not_used(tmp_path: Path) -> None:
    write_grey_clip(tmp_path / "loud.mp4", click(1.0))
    assert load_clip(tmp_path, sample(video="loud.mp4", use_audio=False), MEDIA).videos[0].audio is None


def test_text_alone_has_no_media(tmp_path: Path) -> None:
    clip = load_clip(tmp_path, sample(), MEDIA)
    assert (clip.videos, clip.audios, clip.images_nhwc) == ((), (), ())


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_a_long_video_is_sampled_over_its_full_length(decoder: str) -> None:
    film = big_buck_bunny()
    media = MediaRecipe(frames_per_s=4, max_frames=8, frame_size=64, max_audio_s=2.0, decoder=decoder)
    (video,) = load_clip(film.parent, sample(video=film.name), media).videos
    assert video.frames_nhwc.shape == (8, 64, 64, 3)
    assert video.frame_times_s == pytest.approx([5.28 * (index + 0.5) / 8 for index in range(8)])
    assert video.audio is not None
    assert video.audio.shape == (2 * media.sample_rate_hz,)


@pytest.mark.parametrize("role", ["video", "audio", "image"])
def test_an_error_names_the_file_as_the_dataset_does_and_the_sample(tmp_path: Path, role: str) -> None:
    with pytest.raises(MediaError) as caught:
        load_clip(tmp_path, sample(**{role: "clips/gone.mp4"}), MEDIA)
    assert str(caught.value) == (f"clips/gone.mp4: no such file (sample a, read from {tmp_path})")
