"""Samples that are too long, and counts that hold whatever the model is made of."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_av.media.clip import Clip, MediaSizes, VideoSize
from llava_av.model import IGNORE, LlavaAvProcessor
from tests.model_samples import clip, image, sound, tiny_model, video

TURNS = [("human", "Which colour is shown?"), ("gpt", "red")]
MODELS = {
    "default": {},
    "newlines by row": {"model__video_newline": "grid", "model__chunk_s": None},
    "perceiver, average": {
        "model__resampler": "perceiver",
        "model__resampler_options": {"queries": 3},
        "model__audio_downsampler": "average",
        "model__audio_downsampler_options": {"size": 10},
        "model__video_newline": "frame",
    },
    "masked drop, convolution": {
        "model__resampler": "masked_drop",
        "model__resampler_options": {"drop_share": 0.7},
        "model__audio_downsampler": "convolution",
        "model__audio_downsampler_options": {"kernel": 9, "stride": 7},
        "model__video_newline": "one",
    },
    "slow and fast, times in chunks": {
        "model__slow_fast": {"every": 3, "stride": 4},
        "model__timestamps": True,
        "model__video_newline": "grid",
        "model__chunk_s": 0.7,
    },
    "slow and fast, times of frames": {
        "model__slow_fast": {"every": 2, "stride": 2},
        "model__timestamps": True,
        "model__video_newline": "one",
        "model__chunk_s": None,
    },
    "windows of sound": {"model__audio_window_s": 0.5, "model__audio_overlap_s": 0.1, "model__chunk_s": 1.0},
}
rules = st.sampled_from(["refuse", "fewer_frames", "shorter_audio"])
frames, samples = st.integers(1, 6), st.none() | st.integers(2_000, 40_000)
media = st.builds(
    Clip,
    videos=st.lists(st.builds(video, frames=frames, samples=samples), max_size=2).map(tuple),
    audios=st.lists(st.builds(sound, samples=st.integers(2_000, 20_000)), max_size=2).map(tuple),
    images_nhwc=st.lists(st.builds(image, size=st.sampled_from([32, 48])), max_size=2).map(tuple),
)


def limited(processor, limit, rule) -> LlavaAvProcessor:
    config = processor.config.__class__.from_dict(processor.config.to_dict())
    config.max_tokens, config.over_limit = limit, rule
    return LlavaAvProcessor(processor.tokenizer, config, processor.image_processor)


@pytest.fixture(scope="module", params=MODELS)
def parts(request):
    return tiny_model(**MODELS[request.param])


@settings(max_examples=8)
@given(clips=st.lists(media, min_size=1, max_size=2))
def test_the_count_is_what_the_model_consumes(parts, clips):
    """A model refuses another number of placeholders than of features."""
    model, processor = parts
    batch = processor.collate([processor.encode(TURNS, each) for each in clips])
    counted = [processor.count_tokens(TURNS, MediaSizes.of(each)) for each in clips]
    assert counted == [processor.count_tokens(TURNS, each) for each in clips]
    assert batch["attention_mask"].sum(1).tolist() == counted
    with torch.no_grad():
        assert model(**batch).loss_sums.isfinite().all()


@settings(max_examples=40)
@given(
    one=media, limit=st.integers(10, 200), rule=st.sampled_from(["refuse", "fewer_frames", "shorter_audio"])
)
def test_a_sample_fits_or_is_refused_and_its_answer_is_whole(parts, one, limit, rule):
    _, processor = parts
    whole = processor.encode(TURNS, one)
    refused = None
    try:
        encoded = limited(processor, limit, rule).encode(TURNS, one)
    except ValueError as error:
        refused = str(error)
    if refused is not None:
        assert len(whole.input_ids) > limit
        assert f"max_tokens={limit}" in refused
        return
    assert len(encoded.input_ids) <= limit
    assert limited(processor, limit, rule).count_tokens(TURNS, MediaSizes.of(one)) == len(encoded.input_ids)
    said, expected = ([t for t in each.labels if t != IGNORE] for each in (encoded, whole))
    assert said == expected
    if len(whole.input_ids) <= limit:
        assert encoded.input_ids == whole.input_ids


def test_fewer_frames_are_spread_over_the_video_and_the_sound_stays():
    _, processor = tiny_model()
    long = clip(frames=20)
    count = processor.count_tokens(TURNS, long)
    encoded = limited(processor, count - 10, "fewer_frames").encode(TURNS, long)
    assert len(encoded.frames_nhwc[0]) == 10
    assert len(encoded.audios[0]) == len(long.videos[0].audio)
    kept = [
        int((long.videos[0].frames_nhwc == frame).all((1, 2, 3)).argmax()) for frame in encoded.frames_nhwc[0]
    ]
    assert kept == list(range(1, 20, 2))


def test_sound_is_shortened_only_as_far_as_it_has_to_be():
    _, processor = tiny_model()
    long = Clip(audios=(sound(samples=80_000),))
    tokens = processor.layout.audio_tokens(80_000)
    count = processor.count_tokens(TURNS, long)
    encoded = limited(processor, count - 3, "shorter_audio").encode(TURNS, long)
    assert processor.layout.audio_tokens(len(encoded.audios[0])) == tokens - 3
    assert len(encoded.input_ids) == count - 3


def test_a_sample_over_the_limit_is_refused_with_both_counts():
    _, processor = tiny_model()
    count = processor.count_tokens(TURNS, clip())
    with pytest.raises(ValueError, match=f"a sample of {count} tokens, but max_tokens={count - 1}"):
        limited(processor, count - 1, "refuse").encode(TURNS, clip())


def test_an_hour_of_media_is_counted_without_its_memory():
    """An hour of sound alone is 230 MB, its 7,200 frames as large as the file has them 45 GB."""
    _, processor = tiny_model()
    times_s = tuple(0.25 + 0.5 * index for index in range(7_200))
    sizes = MediaSizes(
        videos=(VideoSize(frame_times_s=times_s, samples=16_000 * 3_600),), images=((20_000, 30_000),)
    )
    clip = sizes.blank()
    assert MediaSizes.of(clip) == sizes
    assert {array.strides for array in (clip.videos[0].audio, clip.images_nhwc[0])} == {(0,), (0, 0, 0)}
    layout = processor.layout
    media = layout.video_tokens(7_200) + layout.audio_tokens(16_000 * 3_600)
    text = processor.count_tokens(TURNS, MediaSizes())
    assert processor.count_tokens(TURNS, sizes) == text + media + layout.image_tokens((20_000, 30_000))


def test_sound_too_short_for_a_token_is_refused_with_both_counts():
    _, processor = tiny_model()
    with pytest.raises(
        ValueError, match=r"a sound of 5 samples, but one feature of the audio tower needs \d+"
    ):
        processor.encode(TURNS, Clip(audios=(sound(samples=5),)))
