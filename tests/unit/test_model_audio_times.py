"""Time of each audio token, compared with a search for the samples that it depends on."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import WhisperFeatureExtractor

from llava_av.media.clip import Clip, Video
from llava_av.model import LlavaAvConfig, LlavaAvProcessor
from llava_av.model.audio.front_end import build_front_end
from llava_av.model.connector.audio_downsamplers import AUDIO_DOWNSAMPLERS
from llava_av.model.conversion.importing import import_model
from llava_av.model.sequence.token_counts import TokenCounts
from tests.audio_towers import FAMILIES, RATE_HZ, tiny_audio_model
from tests.llava_samples import write_audio_tower, write_llava
from tests.model_samples import tiny_model

WIDTH = 4
downsamplers = st.one_of(
    st.tuples(st.sampled_from(["stack", "average"]), st.fixed_dictionaries({"size": st.integers(1, 9)})),
    st.tuples(
        st.just("convolution"),
        st.tuples(st.integers(1, 5), st.integers(0, 6)).map(lambda t: {"stride": t[0], "kernel": sum(t)}),
    ),
    st.tuples(
        st.just("qformer"),
        st.fixed_dictionaries({"window": st.integers(1, 9), "queries": st.integers(1, 3)}),
    ),
)


@settings(max_examples=40, deadline=None)
@given(chosen=downsamplers, features=st.integers(1, 24))
def test_a_token_spans_the_features_that_change_it(chosen, features):
    kind, options = chosen
    torch.manual_seed(0)
    part = AUDIO_DOWNSAMPLERS.build(kind, options, width=WIDTH, heads=2).eval()
    values = torch.randn(1, features, WIDTH, requires_grad=True)
    tokens = part(values, [features])[0]
    for token in range(part.tokens(features)):
        (gradient,) = torch.autograd.grad(tokens[token].square().sum(), values, retain_graph=True)
        seen = gradient[0].abs().sum(-1).nonzero().flatten()
        assert part.span(token, features) == (int(seen[0]), int(seen[-1]))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_time_of_a_feature_is_the_centre_of_its_receptive_field(family):
    model, extractor = tiny_audio_model(family, norm="layer")
    front_end = build_front_end(model.config, extractor, sample_rate_hz=RATE_HZ)
    for feature in (2, 7):
        first, stop = _samples_of(front_end, model, extractor, feature)
        assert front_end.feature_time_s(feature) == pytest.approx((first + stop) / 2 / RATE_HZ, abs=1e-9)


def _samples_of(front_end, model, extractor, feature):
    """Return the start and end of a feature's receptive field, layer by layer."""
    if isinstance(extractor, WhisperFeatureExtractor):
        encoder = model.get_encoder()
        low, high = feature, feature + 1
        for layer in (encoder.conv2, encoder.conv1):
            low = low * layer.stride[0] - layer.padding[0]
            high = (high - 1) * layer.stride[0] - layer.padding[0] + layer.kernel_size[0]
        half = extractor.n_fft // 2
        return low * extractor.hop_length - half, (high - 1) * extractor.hop_length + half
    low, high = feature, feature + 1
    for kernel, stride in reversed(
        list(zip(model.config.conv_kernel, model.config.conv_stride, strict=True))
    ):
        low, high = low * stride, (high - 1) * stride + kernel
    return low, high


def test_wav2vec2_of_the_hub_has_features_every_20_ms_from_12_5_ms():
    config = {
        "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
        "conv_stride": [5, 2, 2, 2, 2, 2, 2],
        "conv_dim": [8] * 7,
    }
    model, extractor = tiny_audio_model("wav2vec2", **config)
    front_end = build_front_end(model.config, extractor, sample_rate_hz=RATE_HZ)
    assert [front_end.feature_time_s(index) for index in (0, 1, 50)] == pytest.approx(
        [0.0125, 0.0325, 1.0125]
    )


@settings(max_examples=50, deadline=None)
@given(samples=st.integers(8_000, 160_000))
def test_tokens_of_500_ms_lie_in_their_own_chunk_whatever_the_length(samples):
    """The demonstration's tower has strides of 320 samples and 25 features per token."""
    counts = _counts("stride")
    times_s = counts.audio_times_s(samples)
    assert len(times_s) == counts.audio_tokens(samples)
    assert [int(time // 0.5) for time in times_s] == list(range(len(times_s)))
    assert times_s == sorted(times_s)
    assert times_s[-1] < samples / RATE_HZ


def _counts(audio_token_times):
    _, processor = tiny_model()
    settings = processor.config.to_dict() | {"audio_token_times": audio_token_times}
    return TokenCounts(LlavaAvConfig(**settings))


def test_the_even_division_of_older_models_puts_tokens_into_other_chunks():
    """Of 2.56 s the sixth token covers the last 60 ms and moves all others."""
    even, stride = _counts("even").audio_times_s(41_000), _counts("stride").audio_times_s(41_000)
    assert [int(time // 0.5) for time in even] == [0, 1, 2, 2, 3, 4]
    assert [int(time // 0.5) for time in stride] == [0, 1, 2, 3, 4, 5]


def _clip(samples):
    frames = np.zeros((4, 32, 32, 3), np.uint8)
    audio = np.full(samples, 0.1, np.float32)
    return Clip(videos=(Video(frames_nhwc=frames, frame_times_s=(0.0, 0.5, 1.0, 1.5), audio=audio),))


def _kinds(processor, clip):
    ids = processor.encode([("human", "What?"), ("gpt", "red")], clip).input_ids
    names = {processor.config.video_token_id: "v", processor.config.audio_token_id: "a"}
    return "".join(names.get(token, "") for token in ids)


def _aged(processor):
    """Return the processor of a config from before the field existed."""
    text = json.loads(processor.config.to_json_string(use_diff=True))
    assert text.pop("audio_token_times") == "stride"
    return LlavaAvProcessor(
        processor.tokenizer,
        LlavaAvConfig(**text),
        image_processor=processor.image_processor,
        video_processor=processor.video_processor,
    )


def test_the_demonstration_is_laid_out_as_before_and_a_longer_clip_by_stride():
    _, processor = tiny_model()
    old = _aged(processor)
    assert old.config.audio_token_times == "even"
    whole = 2 * RATE_HZ
    assert _kinds(processor, _clip(whole)) == _kinds(old, _clip(whole))
    short = round(1.55 * RATE_HZ)
    assert _kinds(processor, _clip(short)) != _kinds(old, _clip(short))


def test_an_added_audio_tower_is_placed_by_stride(tmp_path):
    source = write_llava("llava_onevision", tmp_path / "source")
    import_model(source, tmp_path / "without_vision", audio=write_audio_tower(tmp_path / "tower"))
    assert LlavaAvConfig.from_pretrained(tmp_path / "without_vision").audio_token_times == "stride"
