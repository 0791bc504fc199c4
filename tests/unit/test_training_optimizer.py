"""Parts of the model without media in a step, which the optimizer leaves unchanged."""

import json
import math

import pytest
import torch
from torch import nn

from llava_av.media.clip import Clip
from llava_av.model.parts import PARTS, part_of, parts_with_input, trainable_parts
from llava_av.recipe import PART_NAMES, PartOptimizer, RecipeError
from llava_av.training.engines.torch_engine import TorchEngine
from llava_av.training.optimizer import TrainingError, build_optimizer, prepare_step
from tests.model_samples import clip, image, tiny_model, tiny_recipe, waveform

TURNS = [("human", "What do you hear?"), ("gpt", "red")]
CLIPS = {
    "text": Clip(),
    "audio": Clip(audios=(waveform(samples=9_000),)),
    "image": Clip(images_nhwc=(image(),)),
    "silent video": clip(samples=None),
    "video": clip(),
}
PERCEIVER = {"model__resampler": "perceiver", "model__resampler_options": {"queries": 2}}


@pytest.fixture(scope="module")
def batches():
    _, processor = tiny_model(**PERCEIVER)
    return {name: processor.collate([processor.encode(TURNS, one)]) for name, one in CLIPS.items()}


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("text", {}, set()),
        ("audio", {}, {"audio"}),
        ("image", {}, {"vision", "resampler"}),
        ("image", {"resample_images": False}, {"vision"}),
        ("image", {"image_grid_pinpoints": [[64, 64]]}, {"vision", "newline"}),
        ("silent video", {"image_grid_pinpoints": [[64, 64]]}, {"vision", "resampler"}),
        ("video", {"video_newline": "frame"}, {"vision", "resampler", "newline", "audio"}),
        ("image", {"video_newline": "frame"}, {"vision", "resampler"}),
    ],
)
def test_the_parts_that_media_need(batches, monkeypatch, name: str, settings, expected: set[str]) -> None:
    config = tiny_model(**PERCEIVER)[0].config
    for field, value in settings.items():
        monkeypatch.setattr(config, field, value)
    assert parts_with_input(config, batches[name]) == expected


@pytest.mark.parametrize("name", CLIPS)
def test_only_parts_with_input_have_a_gradient_that_is_not_zero(batches, name: str) -> None:
    model, _ = tiny_model(**PERCEIVER, model__video_newline="frame")
    model.train()
    model(**batches[name] if "video" not in name else with_newlines(name)).loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    moved = {part_of(name) for name, gradient in gradients.items() if gradient.any()}
    assert moved - {"language"} == parts_with_input(model.config, batches[name])


def with_newlines(name: str):
    _, processor = tiny_model(**PERCEIVER, model__video_newline="frame")
    return processor.collate([processor.encode(TURNS, CLIPS[name])])


def test_weights_and_moments_of_an_absent_modality_are_the_same_after_100_steps(batches) -> None:
    model, _ = tiny_model(**PERCEIVER)
    optimizer = build_optimizer(model.train(), tiny_recipe().optimizer)

    def step(batch) -> None:
        optimizer.zero_grad()
        model(**batch).loss.backward()
        prepare_step(optimizer, 1e-2, set(PARTS) - parts_with_input(model.config, batch))
        optimizer.step()

    step(batches["video"])
    before = state(model, optimizer)
    for _ in range(100):
        step(batches["text"])
    after = state(model, optimizer)
    changed = {part_of(name) for name, values in after.items() if not same(values, before[name])}
    assert changed == {"language"}


def state(model, optimizer) -> dict[str, list[torch.Tensor]]:
    return {
        name: [weight.detach().clone(), *(one.clone() for one in optimizer.state[weight].values())]
        for name, weight in model.named_parameters()
    }


def same(values: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return len(values) == len(others) and all(map(torch.equal, values, others))


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf])
def test_gradients_that_are_not_finite_are_not_applied(batches, scale: float) -> None:
    model, _ = tiny_model(**PERCEIVER)
    engine = TorchEngine(model.train(), tiny_recipe())
    before = {name: weight.clone() for name, weight in engine.weights().items()}
    engine.backward(model(**batches["video"]).loss * scale, last=True)
    assert not math.isfinite(engine.step(1e-3))
    assert all(weight.equal(before[name]) for name, weight in engine.weights().items())


def test_each_part_has_its_learning_rate_and_weight_decay() -> None:
    recipe = tiny_recipe(
        optimizer__learning_rate=1e-3,
        optimizer__weight_decay=0.1,
        optimizer__parts={
            "vision_tower": {"learning_rate": 1e-5},
            "audio_connector": {"learning_rate": 4e-3, "weight_decay": 0.5},
        },
    )
    model, _ = tiny_model()
    optimizer = build_optimizer(model, recipe.optimizer)
    prepare_step(optimizer, 5e-4, ())
    parts = trainable_parts(model)
    names = {id(weight): name for name, weight in model.named_parameters()}
    found = {names[id(weight)]: group for group in optimizer.param_groups for weight in group["params"]}
    rates = {"vision_tower": 5e-6, "audio_connector": 2e-3}
    for name, group in found.items():
        assert group["lr"] == pytest.approx(rates.get(parts[name], 5e-4)), name
    assert found["audio_projector.linear_1.weight"]["weight_decay"] == 0.5
    assert found["vision_projector.linear_1.weight"]["weight_decay"] == 0.1
    assert set(parts.values()) == set(PART_NAMES)


@pytest.mark.parametrize("decay", [None, 0.2])
def test_norms_biases_and_embeddings_decay_only_if_a_part_says_so(decay: float | None) -> None:
    parts = {"embeddings": {"weight_decay": decay}} if decay else {}
    recipe = tiny_recipe(optimizer__weight_decay=0.1, optimizer__parts=parts)
    model, _ = tiny_model()
    decays = {
        id(weight): group["weight_decay"]
        for group in build_optimizer(model, recipe.optimizer).param_groups
        for weight in group["params"]
    }
    of_part = trainable_parts(model)
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for name, weight in model.named_parameters():
        expected = 0.1 if weight.ndim > 1 and id(weight) not in tables else 0.0
        if of_part[name] == "embeddings":
            expected = decay or 0.0
        assert decays.get(id(weight), expected) == expected, name


def test_settings_of_a_frozen_part_are_refused() -> None:
    with pytest.raises(
        RecipeError, match=r"optimizer\.parts has vision_tower, not in model\.trainable_parts"
    ):
        tiny_recipe(
            model__trainable_parts=["language"],
            optimizer__parts={"vision_tower": {"learning_rate": 1e-5}},
        )


def test_the_first_versions_names_of_parts_stand_for_all_of_theirs() -> None:
    recipe = tiny_recipe(model__train=["projectors", "language"])
    assert recipe.model.trainable_parts == ("vision_connector", "audio_connector", "language", "embeddings")
    earlier = json.loads(recipe.identity_json())["model"]
    assert (earlier["train"], "trainable_parts" in earlier) == (["projectors", "language"], False)
    new = tiny_recipe(model__trainable_parts=["audio_connector"])
    assert json.loads(new.identity_json())["model"]["train"] == ["audio_connector"]


def test_settings_of_a_part_are_set_by_dotted_path_and_empty_ones_are_none() -> None:
    recipe = tiny_recipe()
    changed = recipe.with_overrides({"optimizer.parts.vision_tower.learning_rate": 1e-5})
    assert changed.optimizer.parts == {"vision_tower": PartOptimizer(learning_rate=1e-5)}
    assert recipe.with_overrides({"optimizer.parts": {"language": {}}}) == recipe
    with pytest.raises(RecipeError, match=r"tower"):
        recipe.with_overrides({"optimizer.parts.tower.learning_rate": 1e-5})


def test_a_model_without_a_weight_to_train_is_an_error() -> None:
    model, _ = tiny_model(model__audio=None, model__trainable_parts=["audio_connector"])
    with pytest.raises(TrainingError, match=r"no weights in model\.trainable_parts"):
        build_optimizer(model, tiny_recipe().optimizer)
