"""Audio before the tower: checks, counts, windows."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from llava_av.model.audio.front_end import build_front_end
from tests.audio_towers import FAMILIES, RATE_HZ, tiny_audio_model
from tests.model_samples import waveform


def front_end(family="wav2vec2", *, extractor=None, window_s=None, overlap_s=0.0, **options):
    model, own = tiny_audio_model(family, **options)
    return build_front_end(
        model.config, extractor or own, sample_rate_hz=RATE_HZ, window_s=window_s, overlap_s=overlap_s
    )


@pytest.fixture(scope="module", params=["wav2vec2", "whisper"])
def windowed(request):
    window_s = None if request.param == "whisper" else 0.5
    return front_end(request.param, window_s=window_s, overlap_s=0.1)


@settings(max_examples=60, deadline=None)
@given(samples=st.integers(400, 60_000))
def test_windows_give_each_feature_of_the_whole_once(windowed, samples):
    windows = windowed.windows(samples)
    position = 0
    for one in windows:
        first, rest = divmod(one.start, windowed.stride)
        assert rest == 0
        assert first + one.skip == position
        assert one.skip + one.keep <= windowed.feature_count(one.stop - one.start)
        assert one.keep > 0
        position += one.keep
    assert position == windowed.feature_count(samples)
    assert len({one.stop - one.start for one in windows[:-1]}) <= 1
    for early, late in itertools.pairwise(windows):
        assert early.stop - late.start >= 4 * windowed.stride + windowed.field


def test_audio_that_fits_is_one_window():
    assert len(front_end(window_s=0.5).windows(RATE_HZ // 2)) == 1
    assert len(front_end().windows(RATE_HZ * 600)) == 1


@pytest.mark.parametrize("do_normalize", [True, False])
def test_a_waveform_is_prepared_as_its_extractor_does(do_normalize):
    extractor = Wav2Vec2FeatureExtractor(do_normalize=do_normalize)
    audio = waveform(samples=5_000) * 3 + 0.2
    prepared = front_end(extractor=extractor).prepare(audio, RATE_HZ).numpy()
    mean, spread = (audio.mean(), np.sqrt(audio.var() + 1e-7)) if do_normalize else (0.0, 1.0)
    assert np.array_equal(prepared, (audio - mean) / spread)


def test_only_a_checkpoint_trained_with_a_mask_and_without_group_norm_pads():
    unmasked = Wav2Vec2FeatureExtractor(return_attention_mask=False)
    masked = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    assert front_end(extractor=masked, norm="layer").masked
    assert not front_end(extractor=unmasked, norm="layer").masked
    assert not front_end(extractor=masked, norm="group").masked


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("bad", "rate_hz", "message"),
    [
        (np.zeros(0), RATE_HZ, "audio of 0 samples is too short: one feature of the audio tower needs"),
        (
            np.zeros(900),
            8_000,
            "audio of 8000 Hz does not fit the audio tower, which was trained with 16000 Hz",
        ),
        (np.array([0.0, np.nan, np.inf] * 200), RATE_HZ, "400 of 600 audio samples are not finite"),
        (
            np.zeros((2, 900)),
            RATE_HZ,
            r"shape \(2, 900\) does not fit the audio tower, which accepts one channel",
        ),
    ],
)
def test_audio_that_the_tower_cannot_take_is_rejected(family, bad, rate_hz, message):
    with pytest.raises(ValueError, match=message):
        front_end(family).prepare(bad, rate_hz)


def test_audio_too_short_for_one_feature_is_rejected_with_both_lengths():
    end = front_end()
    with pytest.raises(ValueError, match=f"audio of {end.field - 1} samples .* needs {end.field}"):
        end.prepare(waveform(samples=end.field - 1), RATE_HZ)
    assert end.feature_count(end.field) == 1


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        (
            "wav2vec2",
            {"extractor": Wav2Vec2FeatureExtractor(sampling_rate=8000)},
            "sample_rate_hz=16000 .* 8000 Hz",
        ),
        ("wav2vec2", {"window_s": 0.2, "overlap_s": 0.2}, "windows of 10 features .* overlap by 10"),
        ("wav2vec2", {"extractor": WhisperFeatureExtractor()}, "WhisperFeatureExtractor .* wav2vec2 tower"),
        ("wav2vec2", {"add_adapter": True}, "add_adapter=True"),
        ("whisper", {"window_s": 2.0}, r"audio_window_s=2\.0 .* window is 1\.0 s"),
        ("whisper", {"extractor": WhisperFeatureExtractor(feature_size=8)}, "480000 samples, .* 50 features"),
        ("whisper", {"extractor": WhisperFeatureExtractor(chunk_length=1)}, "80 mel bins, .* takes 8"),
    ],
)
def test_rules_that_do_not_fit_each_other_are_named(family, options, message):
    with pytest.raises(ValueError, match=message):
        front_end(family, **options)


def test_a_fresh_whisper_gets_a_fitting_extractor_or_says_why_not():
    model, _ = tiny_audio_model("whisper")
    end = build_front_end(model.config, sample_rate_hz=RATE_HZ)
    assert end.prepare(waveform(samples=20_000), RATE_HZ).shape == (2, 8, 100)
    model.config.max_source_positions = 75
    with pytest.raises(ValueError, match=r"max_source_positions=75 .*: 50 positions are one"):
        build_front_end(model.config, sample_rate_hz=RATE_HZ)


def test_an_unknown_tower_is_named():
    model, _ = tiny_audio_model()
    model.config.model_type = "bert"
    with pytest.raises(
        ValueError, match="unknown audio tower 'bert': one of wav2vec2, hubert, wavlm, whisper"
    ):
        build_front_end(model.config, sample_rate_hz=RATE_HZ)
