"""Recipes of large models that come with the code, on the meta device."""

import json

import pytest
from typer.testing import CliRunner

from llava_av.cli.app import app
from llava_av.launch import load_profile
from llava_av.named_files import FileKind, default_folder
from llava_av.recipe import load_recipe, named_recipes
from llava_av.workflows.runtime.job_target import processes_for

GIB = 2**30
# Millions of parameters of published models: SigLIP-so400m without its head (OneVision takes 26 of its 27
# layers), wav2vec2-large without heads, and Qwen2 or Qwen3 with embeddings (152,000 rows in OneVision).
PUBLISHED = {
    "onevision-0.5b": {"vision_tower": 397.7, "audio_tower": 315.4, "text": 494.1},
    "onevision-7b": {"vision_tower": 397.7, "audio_tower": 315.4, "text": 7615.2},
    "onevision-7b-lora": {"vision_tower": 397.7, "audio_tower": 315.4, "text": 7615.2 + 161.5},
    "compose-qwen3-4b": {"vision_tower": 413.0, "audio_tower": 315.4, "text": 4022.5},
}
TRAINED = {
    "onevision-0.5b": {"language", "embeddings", "vision_tower", "audio_tower", "vision_connector"},
    "onevision-7b": {"language", "embeddings", "vision_tower", "audio_tower", "vision_connector"},
    "onevision-7b-lora": {"language", "vision_connector"},
    "compose-qwen3-4b": {"language", "embeddings", "vision_connector"},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_shipped_recipe_fits_the_profiles_and_has_the_published_size(name: str) -> None:
    assert name in named_recipes()
    recipe = load_recipe(name)
    assert recipe.name == name
    gpus = processes_for(load_profile("gpu-8"))["training.num_processes"]
    done = CliRunner().invoke(app, ["recipe", "estimate", name, "--gpus", str(gpus), "--json"])
    assert done.exit_code == 0, done.output
    stages = list(json.loads(done.stdout)["stages"].values())
    for found in stages:
        assert max(found["memory"]["total"], found["memory"]["start"]) < 0.8 * 80 * GIB
    assert stages[0]["model"]["trained"] < stages[1]["model"]["trained"]
    counts = {part["name"]: part["parameters"] / 1e6 for part in found["model"]["parts"]}
    counts["text"] = counts["language"] + counts["embeddings"]
    for part, expected in PUBLISHED[name].items():
        assert counts[part] == pytest.approx(expected, abs=0.1), part
    trained = {part["name"] for part in found["model"]["parts"] if part["trained"]}
    assert trained == TRAINED[name] | {"audio_connector"}
    assert found["tokens_per_sample"] < 8192
    on_nodes = recipe.with_overrides(processes_for(load_profile("gpu-4x8")))
    assert on_nodes.training.num_processes == 32


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_shipped_recipe_is_shown_and_names_a_base_whose_config_is_shipped(name: str) -> None:
    done = CliRunner().invoke(app, ["recipe", "show", name])
    assert done.exit_code == 0, done.output
    assert f"digest: {load_recipe(name).digest()}" in done.stdout
    base = load_recipe(name).model.base
    assert base is not None
    assert (default_folder(FileKind.RECIPES) / "bases" / base.rpartition("/")[2] / "config.json").is_file()


def test_the_recipes_of_models_with_a_new_audio_tower_align_its_connector_first() -> None:
    for name in PUBLISHED:
        recipe = load_recipe(name)
        assert len(recipe.stages) == 2
        first, second = recipe.of_stage(0), recipe.of_stage(1)
        assert set(first.model.trainable_parts) <= {"audio_connector", "vision_connector"}
        assert first.model.adapter is None
        assert set(first.model.updated_parts) < set(second.model.updated_parts)
        assert first.optimizer.learning_rate > second.optimizer.learning_rate
