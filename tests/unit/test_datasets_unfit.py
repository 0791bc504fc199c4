"""Detection of samples that do not fit a model, from headers; only doubtful samples are decoded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llava_av.datasets import measuring
from llava_av.datasets.loading import clip_sizes, load_clip
from llava_av.datasets.measuring import find_unfit
from llava_av.datasets.schema import Sample
from llava_av.datasets.unfit import Unfit, UnfitSamplesError, require_few_unfit
from llava_av.media.audio_length import audio_length
from llava_av.media.clip import MediaSizes
from llava_av.media.container import probe
from llava_av.media.resizing import ImageResizing
from llava_av.recipe import MediaRecipe
from tests.media_samples import RATE_HZ, click, write_audio, write_grey_clip, write_image
from tests.model_samples import tiny_model

MEDIA = MediaRecipe(frames_per_s=2, max_frames=8, frame_size=32, max_audio_s=3.0)


def sample(name: str = "a", **media: Any) -> Sample:
    turns = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "red"}]
    return Sample.model_validate({"id": name, "conversations": turns, **media})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    write_grey_clip(folder / "loud.mp4", click(1.0))
    write_grey_clip(folder / "mute.mp4")
    for name, samples in (("tiny", 100), ("short", 8_000), ("long", 4 * RATE_HZ)):
        write_audio(folder / f"{name}.wav", np.zeros((1, samples), np.float32), RATE_HZ, "pcm_s16le")
    write_audio(folder / "short.mka", np.zeros((1, 4_000), np.float32), RATE_HZ, "flac")
    write_image(folder / "a.png", np.zeros((48, 64, 3), np.uint8), "png")
    return folder


@pytest.fixture(scope="module")
def processor() -> Any:
    return tiny_model()[1]


def test_sizes_are_those_of_the_decoded_media(root: Path, processor: Any) -> None:
    sizes_of = processor.image_resizing()
    for media in (
        {"video": ["loud.mp4", "mute.mp4"]},
        {"video": "loud.mp4", "use_audio": False},
        {"audio": ["tiny.wav", "short.wav", "short.mka", "long.wav"], "image": "a.png"},
        {},
    ):
        one = sample(**media)
        sizes = clip_sizes(root, one, MEDIA, sizes_of)
        decoded = MediaSizes.of(load_clip(root, one, MEDIA, sizes_of))
        assert [video.frame_times_s for video in sizes.videos] == [
            video.frame_times_s for video in decoded.videos
        ]
        assert sizes.audios == decoded.audios
        for stated, heard in zip(sizes.videos, decoded.videos, strict=True):
            assert (stated.samples is None) == (heard.samples is None)
            if stated.samples is not None and heard.samples is not None:
                assert 0 <= stated.samples - heard.samples <= 0.2 * RATE_HZ


def test_sizes_from_recorded_properties_are_those_of_the_headers(root: Path) -> None:
    tiles = ImageResizing(max_image_pixels=1000)
    info_of = lambda name: probe(root / name)  # noqa: E731
    for resizing in (ImageResizing(), tiles):
        for media in ({"video": ["loud.mp4", "mute.mp4"]}, {"audio": "long.wav"}, {"image": "a.png"}):
            one = sample(**media)
            assert clip_sizes({}, one, MEDIA, resizing, info_of) == clip_sizes(root, one, MEDIA, resizing)
    for name in ("tiny.wav", "short.wav", "short.mka"):
        one = sample(audio=name)
        with pytest.raises(KeyError):
            clip_sizes({}, one, MEDIA, tiles, info_of)
        assert clip_sizes(root, one, MEDIA, tiles, info_of) == clip_sizes(root, one, MEDIA, tiles)


def test_long_audio_is_known_by_its_header(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("llava_av.media.audio_length.read_audio")
    assert audio_length(root / "long.wav", sample_rate_hz=16_000, max_s=3.0) == 48_000


def test_audio_too_short_for_the_tower_is_found(root: Path, processor: Any) -> None:
    samples = [
        sample("text"),
        sample("tiny", audio="tiny.wav"),
        sample("short", audio="short.wav"),
        sample("again", audio="tiny.wav"),
        sample("gone", audio="gone.wav"),
        sample("loud", video="loud.mp4"),
    ]
    unfit = find_unfit(root, samples, MEDIA, processor)
    assert [one.id for one in unfit] == ["tiny", "again", "gone"]
    assert "one feature of the audio tower needs" in unfit[0].reason
    assert unfit[2].reason.startswith("gone.wav: no such file")
    assert find_unfit(root, samples, MEDIA, processor, most=0) == unfit[:1]


def test_samples_that_exceed_a_row_or_the_limit_are_found(root: Path, processor: Any) -> None:
    one, text = sample("loud", video="loud.mp4"), sample("text")
    tokens = processor.measure(
        [(turn.speaker, turn.value) for turn in one.conversations], load_clip(root, one, MEDIA)
    ).tokens
    assert find_unfit(root, [one, text], MEDIA, processor, row_tokens=tokens) == ()
    (unfit,) = find_unfit(root, [one, text], MEDIA, processor, row_tokens=tokens - 1)
    assert unfit == Unfit(id="loud", reason=f"{tokens} tokens, but training.pack_length={tokens - 1}")
    limited = tiny_model(model__max_tokens=tokens - 1)[1]
    (unfit,) = find_unfit(root, [one, text], MEDIA, limited)
    assert f"max_tokens={tokens - 1}" in unfit.reason
    assert find_unfit(root, [one, text], MEDIA, tiny_model(model__max_tokens=tokens)[1]) == ()


def test_what_fits_by_its_headers_is_not_decoded(
    root: Path, processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(measuring, "load_clip")
    samples = [sample("loud", video="loud.mp4"), sample("b", audio="long.wav"), sample("c", image="a.png")]
    assert find_unfit(root, samples, MEDIA, processor) == ()


def test_more_unfit_samples_than_allowed_are_one_line() -> None:
    unfit = [Unfit(id=f"s{number}", reason="too short") for number in range(6)]
    require_few_unfit([], 10, 0.0)
    require_few_unfit(unfit, 120, 0.05)
    with pytest.raises(
        UnfitSamplesError, match=r"6 of 100 .*data\.max_bad_share=0\.05 .*sample s0: too short"
    ):
        require_few_unfit(unfit, 100, 0.05)
    with pytest.raises(UnfitSamplesError, match=r"6 of 6 samples .*none is left.*sample s0: too short"):
        require_few_unfit(unfit, 6, 1.0)
    with pytest.raises(UnfitSamplesError, match="6 of 8 held-out samples do not fit"):
        require_few_unfit(unfit, 8, 0.05, "held-out samples")
