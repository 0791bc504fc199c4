"""Training that starts from a base model: its identity and its trained parts."""

import json

import pytest

from llava_av.checkpoints import CheckpointError, base_digest, fetch_base, read_base_config
from llava_av.media.clip import Clip
from llava_av.model import LlavaAvConfig, base_model
from llava_av.model.conversion.importing import import_model
from llava_av.model.files.reading import ModelFilesError
from llava_av.recipe import (
    MediaRecipe,
    RecipeError,
    load_recipe,
    media_differences,
    with_media_of_base,
)
from tests.llava_samples import write_audio_tower, write_llava
from tests.model_samples import tiny_recipe, waveform

TURNS = [("human", "Which colour is shown?"), ("gpt", "red")]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("base")
    source = write_llava("llava_onevision", root / "source")
    import_model(source, root / "model", audio=write_audio_tower(root / "audio"))
    return root / "model"


def recipe_of(base, **model):
    return tiny_recipe(model={"base": str(base), **model})


@pytest.mark.parametrize(
    ("groups", "parts"),
    [
        (["audio_connector"], {"audio_projector"}),
        (["vision_connector", "audio_connector"], {"vision_projector", "audio_projector", "newline"}),
        (["audio_tower", "language", "embeddings"], {"audio_tower", "language_model"}),
    ],
)
def test_declared_parts_are_trained_and_the_others_stay_in_eval_mode(base, groups, parts):
    model, processor = base_model(recipe_of(base, trainable_parts=groups), base)
    model.train()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in trained} == parts
    assert not model.vision_tower.training
    assert model.audio_tower.training is ("audio_tower" in groups)
    model(**processor.collate([processor.encode(TURNS, Clip(audios=(waveform(),)))])).loss.backward()
    assert [name for name, parameter in trained.items() if parameter.grad is None] == []


def test_a_base_model_keeps_the_recipes_media_and_limits(base):
    recipe = tiny_recipe(model={"base": str(base), "max_tokens": 100}, media__frames_per_s=3.0)
    model, processor = base_model(recipe, base)
    assert (model.config.frames_per_s, processor.config.max_tokens) == (3.0, 100)


def test_media_that_a_recipe_does_not_set_are_those_of_its_base(base):
    stated = {**recipe_of(base).model_dump(mode="json"), "media": {"max_frames": 7}}
    # The recipe travels as text, and gets its base and other overrides on the way.
    recipe = load_recipe(json.dumps(stated)).with_overrides({"training.steps": 3})
    recipe = load_recipe(recipe.stated_json()).with_overrides({"media.decoder": "decord"})
    config = read_base_config(str(base))
    resolved = with_media_of_base(recipe, config)
    assert (config["frames_per_s"], config["max_audio_s"]) == (1.0, 30.0)
    assert resolved.media.model_dump() == {
        "frames_per_s": 1.0,
        "max_frames": 7,
        "frame_size": 32,
        "sample_rate_hz": 16_000,
        "max_audio_s": 30.0,
        "decoder": "decord",
    }
    [difference] = media_differences(resolved, config)
    assert "media.max_frames=7" in difference
    assert str(config["max_frames"]) in difference
    written = load_recipe(resolved.canonical_json())
    assert with_media_of_base(written, {"frames_per_s": 9.0}) == written


def test_a_config_json_leaves_out_the_media_settings_that_recipes_have_by_default():
    config, media = LlavaAvConfig(), MediaRecipe().model_dump(exclude={"decoder"})
    assert {name: getattr(config, name) for name in media} == media


def test_a_recipe_without_base_states_all_of_its_media():
    recipe = load_recipe("quick")
    assert recipe.stated_json() == recipe.canonical_json()
    with pytest.raises(RecipeError, match=r"media\.frames_per_second.*frames_per_s"):
        recipe.with_overrides({"media.frames_per_second": 1})


def test_a_config_that_is_no_object_is_one_line_with_the_address(tmp_path):
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        read_base_config(str(tmp_path))


@pytest.mark.parametrize(
    ("field", "wanted", "own"), [("frame_size", 64, 32), ("sample_rate_hz", 8000, 16000)]
)
def test_media_of_another_size_than_the_base_takes_are_one_line_with_the_remedy(base, field, wanted, own):
    recipe = tiny_recipe(model={"base": str(base)}, **{f"media__{field}": wanted})
    message = rf"media\.{field}={wanted} does not fit the base model, must be {own}: set media\.{field}={own}"
    with pytest.raises(ModelFilesError, match=message) as caught:
        base_model(recipe, base)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({}, "set base, or language"),
        ({"base": "there", "resampler": "identity"}, "has its own resampler: remove these fields"),
        ({"base": "there", "trainable_parts": []}, "trainable_parts is empty"),
    ],
)
def test_a_recipe_names_a_base_or_parts(model, message):
    with pytest.raises(RecipeError, match=message):
        tiny_recipe(model=model)


def test_a_base_is_identified_by_its_files(base, tmp_path):
    digest = base_digest(str(base))
    assert fetch_base(str(base), digest, tmp_path) == base
    assert base_digest(str(base)) == digest
    (base / "note.txt").write_text("another file")
    try:
        with pytest.raises(CheckpointError, match="is not the model with which this run was"):
            fetch_base(str(base), digest, tmp_path)
    finally:
        (base / "note.txt").unlink()
    with pytest.raises(CheckpointError, match="there is no folder"):
        base_digest(str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match="contains no model"):
        base_digest(str(tmp_path))
