"""Audio towers of every family: true lengths, masks, windows, freezing, loading."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from llava_av.model.audio.front_end import build_front_end
from llava_av.model.audio.tower import AudioTower, build_audio_tower, load_audio_tower
from tests.audio_towers import FAMILIES, RATE_HZ, tiny_audio_model
from tests.model_samples import waveform

EVERY = [(family, norm) for family in FAMILIES[:3] for norm in ("layer", "group")] + [("whisper", None)]


def tower_of(family, norm, *, window_s=None, overlap_s=0.0, **options):
    model, extractor = tiny_audio_model(family, **({} if norm is None else {"norm": norm}), **options)
    end = build_front_end(
        model.config, extractor, sample_rate_hz=RATE_HZ, window_s=window_s, overlap_s=overlap_s
    )
    encoder = model.get_encoder() if family == "whisper" else model
    return AudioTower(encoder, end).eval()


def heard(tower, *sounds):
    return tower([tower.front_end.prepare(one, RATE_HZ) for one in sounds], [len(one) for one in sounds])


@pytest.fixture(scope="module", params=EVERY, ids=str)
def tower(request):
    return tower_of(*request.param)


@settings(max_examples=8, deadline=None)
@given(lengths=st.lists(st.integers(800, 40_000), min_size=1, max_size=4))
def test_the_count_equals_the_output(tower, lengths):
    with torch.no_grad():
        features = heard(tower, *(waveform(samples=length) for length in lengths))
    assert [len(one) for one in features] == [tower.front_end.feature_count(length) for length in lengths]
    assert all(one.shape[1] == tower.model.config.hidden_size for one in features)


def test_audio_does_not_depend_on_its_neighbours(tower):
    """The largest observed difference is 6e-7, for audio padded behind a mask."""
    sounds = [waveform(0, 9_000), waveform(1, 16_000), waveform(2, 12_345), waveform(3, 9_000)]
    with torch.no_grad():
        together = heard(tower, *sounds)
        apart = [heard(tower, one)[0] for one in sounds]
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("family", "norm"), EVERY)
def test_features_are_those_of_transformers(family, norm):
    """Its own extractor and model, weight norm and all, give the same numbers bit for bit."""
    model, extractor = tiny_audio_model(family, **({} if norm is None else {"norm": norm}))
    audio = waveform(samples=15_000)
    inputs = extractor(audio, sampling_rate=RATE_HZ, return_tensors="pt")
    with torch.no_grad():
        theirs = (model.get_encoder() if family == "whisper" else model)(**inputs).last_hidden_state[0]
        ours = heard(tower_of(family, norm), audio)[0]
    assert torch.equal(ours, theirs[: len(ours)])


@pytest.mark.parametrize("family", ["wav2vec2", "whisper"])
def test_windows_have_the_features_of_their_own_audio(family):
    window_s = None if family == "whisper" else 1.0
    tower = tower_of(family, None if family == "whisper" else "layer", window_s=window_s, overlap_s=0.4)
    whole = waveform(samples=40_000)
    windows = tower.front_end.windows(len(whole))
    assert len(windows) == 4
    prepared = tower.front_end.prepare(whole, RATE_HZ)
    with torch.no_grad():
        features = tower([prepared], [len(whole)])[0]
        second = windows[1]
        part = prepared[1:2] if family == "whisper" else prepared[second.start : second.stop]
        alone = tower([part], [second.stop - second.start])[0]
    first = windows[0].keep
    kept = alone[second.skip : second.skip + second.keep]
    torch.testing.assert_close(features[first : first + second.keep], kept, atol=1e-6, rtol=0)


def _kind(tower):
    config = tower.model.config
    return config.model_type, getattr(config, "feat_extract_norm", None)


def test_a_trained_tower_gives_every_trained_parameter_a_gradient_and_drops_no_layer(tower):
    trained = tower_of(*_kind(tower), **_layer_drop(tower)).train()
    for _ in range(3):
        trained.zero_grad()
        # the second is too short for a span of SpecAugment
        sum(one.square().sum() for one in heard(trained, waveform(), waveform(samples=900))).backward()
        without = [name for name, one in trained.named_parameters() if one.requires_grad and one.grad is None]
        assert without == []


def _layer_drop(tower):
    return {"encoder_layerdrop": 1.0} if tower.model.config.model_type == "whisper" else {"layerdrop": 1.0}


def test_without_spec_augment_its_mask_is_not_trained():
    assert tower_of("wav2vec2", "layer").model.masked_spec_embed.requires_grad
    unaugmented = tower_of("wav2vec2", "layer", apply_spec_augment=False)
    assert not unaugmented.model.masked_spec_embed.requires_grad


def test_silence_is_one_feature_of_any_tower(tower):
    values, samples = tower.front_end.silence()
    with torch.no_grad():
        assert tower([values], [samples])[0].shape == (1, tower.model.config.hidden_size)


def test_a_fresh_tower_is_that_of_transformers():
    model, _ = tiny_audio_model()
    end = build_front_end(model.config, sample_rate_hz=RATE_HZ)
    torch.manual_seed(0)
    fresh = build_audio_tower(model.config, end)
    assert all(
        torch.equal(one, other) for one, other in zip(fresh.parameters(), model.parameters(), strict=True)
    )


@pytest.mark.parametrize(("family", "norm"), EVERY)
def test_a_folder_is_loaded_as_it_was_saved(family, norm, tmp_path):
    model, extractor = tiny_audio_model(family, **({} if norm is None else {"norm": norm}))
    model.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    loaded = load_audio_tower(tmp_path, sample_rate_hz=RATE_HZ)
    assert not loaded.training
    same = tower_of(family, norm)
    assert loaded.front_end.__dict__.keys() == same.front_end.__dict__.keys()
    with torch.no_grad():
        assert torch.equal(heard(loaded, waveform())[0], heard(same, waveform())[0])


def test_missing_mismatched_and_left_over_weights_are_named(tmp_path):
    model, extractor = tiny_audio_model()
    model.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(weights | {"lm_head.weight": torch.zeros(3, 16)}, tmp_path / "model.safetensors")
    load_audio_tower(tmp_path, sample_rate_hz=RATE_HZ)
    save_file(weights | {"encoder.more.weight": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"weights of encoder.more.weight are unused"):
        load_audio_tower(tmp_path, sample_rate_hz=RATE_HZ)
    del weights["feature_projection.layer_norm.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"weights of feature_projection.layer_norm.weight are missing"):
        load_audio_tower(tmp_path, sample_rate_hz=RATE_HZ)
    weights["feature_projection.layer_norm.weight"] = torch.zeros(5)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"feature_projection.layer_norm.weight .* of another size"):
        load_audio_tower(tmp_path, sample_rate_hz=RATE_HZ)


def test_a_tower_whose_files_lack_the_masked_embedding_is_the_same_each_time(tmp_path):
    model, extractor = tiny_audio_model("wav2vec2", norm="group")
    model.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["masked_spec_embed"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    towers = [load_audio_tower(tmp_path, sample_rate_hz=RATE_HZ) for _ in range(2)]
    assert not any(tower.model.masked_spec_embed.any() for tower in towers)
    with torch.no_grad():
        assert torch.equal(
            heard(towers[0], waveform())[0], heard(tower_of("wav2vec2", "group"), waveform())[0]
        )


@pytest.mark.parametrize("implementation", ["sdpa", "flex_attention"])
def test_a_tower_falls_back_to_eager_attention(implementation):
    model, extractor = tiny_audio_model("wavlm", norm="layer")
    end = build_front_end(model.config, extractor, sample_rate_hz=RATE_HZ)
    model.config._attn_implementation = implementation
    tower = build_audio_tower(model.config, end)
    same = tower_of("wavlm", "layer")
    tower.load_state_dict(same.state_dict())
    with torch.no_grad():
        assert torch.equal(heard(tower.eval(), waveform())[0], heard(same, waveform())[0])


def test_a_folder_of_another_rate_is_rejected(tmp_path):
    model, extractor = tiny_audio_model()
    model.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(written | {"sampling_rate": 8000}))
    with pytest.raises(ValueError, match=r"sample_rate_hz=16000 does not fit the wav2vec2 tower, .* 8000 Hz"):
        load_audio_tower(tmp_path, sample_rate_hz=RATE_HZ)


def test_prepared_audio_is_float32(tower):
    assert tower.front_end.prepare(waveform().astype(np.float64), RATE_HZ).dtype == torch.float32
