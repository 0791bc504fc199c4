"""Truncation of long samples, and token counts for all kinds of models."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_av.media.clip import Clip, MediaSizes, VideoSize
from llava_av.model import IGNORE, LlavaAvProcessor
from tests.model_samples import clip, image, tiny_model, video, waveform

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
    "audio windows": {"model__audio_window_s": 0.5, "model__audio_overlap_s": 0.1, "model__chunk_s": 1.0},
}
rules = st.sampled_from(["refuse", "fewer_frames", "shorter_audio"])
frames, samples = st.integers(1, 6), st.none() | st.integers(2_000, 40_000)
media = st.builds(
    Clip,
    videos=st.lists(st.builds(video, frames=frames, samples=samples), max_size=2).map(tuple),
    audios=st.lists(st.builds(waveform, samples=st.integers(2_000, 20_000)), max_size=2).map(tuple),
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
def test_the_count_is_what_the_model_takes(parts, clips):
    """A model rejects unequal numbers of placeholder tokens and features."""
    model, processor = parts
    batch = processor.collate([processor.encode(TURNS, each) for each in clips])
    counted = [processor.measure(TURNS, MediaSizes.of(each)).tokens for each in clips]
    assert counted == [processor.measure(TURNS, each).tokens for each in clips]
    assert batch["attention_mask"].sum(1).tolist() == counted
    with torch.no_grad():
        assert model(**batch).loss_sums.isfinite().all()


@settings(max_examples=40)
@given(
    one=media, limit=st.integers(10, 200), rule=st.sampled_from(["refuse", "fewer_frames", "shorter_audio"])
)
def test_a_sample_fits_or_is_rejected_and_its_answer_is_whole(parts, one, limit, rule):
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
    assert limited(processor, limit, rule).measure(TURNS, MediaSizes.of(one)).tokens == len(encoded.input_ids)
    output, expected = ([t for t in each.labels if t != IGNORE] for each in (encoded, whole))
    assert output == expected
    if len(whole.input_ids) <= limit:
        assert encoded.input_ids == whole.input_ids


def test_fewer_frames_are_spread_over_the_video_and_the_audio_stays():
    _, processor = tiny_model()
    long = clip(frames=20)
    count = processor.measure(TURNS, long).tokens
    encoded = limited(processor, count - 10, "fewer_frames").encode(TURNS, long)
    assert len(encoded.frames_nhwc[0]) == 10
    assert len(encoded.audios[0]) == len(long.videos[0].audio)
    kept = [
        int((long.videos[0].frames_nhwc == frame).all((1, 2, 3)).argmax()) for frame in encoded.frames_nhwc[0]
    ]
    assert kept == list(range(1, 20, 2))


def test_audio_is_cut_only_as_far_as_needed():
    _, processor = tiny_model()
    long = Clip(audios=(waveform(samples=80_000),))
    tokens = processor.token_counts.audio_tokens(80_000)
    count = processor.measure(TURNS, long).tokens
    encoded = limited(processor, count - 3, "shorter_audio").encode(TURNS, long)
    assert processor.token_counts.audio_tokens(len(encoded.audios[0])) == tokens - 3
    assert len(encoded.input_ids) == count - 3


def test_a_sample_over_the_limit_is_rejected_with_both_counts():
    _, processor = tiny_model()
    count = processor.measure(TURNS, clip()).tokens
    with pytest.raises(ValueError, match=f"a sample of {count} tokens is over max_tokens={count - 1}"):
        limited(processor, count - 1, "refuse").encode(TURNS, clip())


def test_an_hour_of_media_is_counted_without_its_memory():
    """An hour of audio takes 230 MB, and its 7,200 frames at full size 45 GB."""
    _, processor = tiny_model()
    times_s = tuple(0.25 + 0.5 * index for index in range(7_200))
    sizes = MediaSizes(
        videos=(VideoSize(frame_times_s=times_s, samples=16_000 * 3_600),), images=((20_000, 30_000),)
    )
    clip = sizes.blank()
    assert MediaSizes.of(clip) == sizes
    assert {array.strides for array in (clip.videos[0].audio, clip.images_nhwc[0])} == {(0,), (0, 0, 0)}
    counts = processor.token_counts
    media = sum(counts.video_frame_tokens(7_200)) + counts.audio_tokens(16_000 * 3_600)
    text = processor.measure(TURNS, MediaSizes()).tokens
    assert processor.measure(TURNS, sizes).tokens == text + media + counts.image_tokens((20_000, 30_000))


def test_audio_too_short_for_a_token_is_rejected_with_both_counts():
    _, processor = tiny_model()
    with pytest.raises(
        ValueError, match=r"audio of 5 samples is too short: one feature of the audio tower needs \d+"
    ):
        processor.encode(TURNS, Clip(audios=(waveform(samples=5),)))
