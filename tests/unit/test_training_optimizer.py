"""Parts of the model without media in a step, which the optimizer leaves unchanged."""

import math

import pytest
import torch

from llava_av.media.clip import Clip
from llava_av.model.parts import PARTS, part_of, parts_with_input
from llava_av.training.engines.torch_engine import TorchEngine
from llava_av.training.optimizer import build_optimizer, prepare_step
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


def test_weights_and_moments_of_an_absent_modality_are_the_same_after_300_steps(batches) -> None:
    model, _ = tiny_model(**PERCEIVER)
    optimizer = build_optimizer(model.train(), tiny_recipe().optimizer)

    def step(batch) -> None:
        optimizer.zero_grad()
        model(**batch).loss.backward()
        prepare_step(optimizer, 1e-2, set(PARTS) - parts_with_input(model.config, batch))
        optimizer.step()

    step(batches["video"])
    before = state(model, optimizer)
    for _ in range(300):
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
    engine = TorchEngine(model.train(), tiny_recipe(), by_part=True)
    before = {name: weight.clone() for name, weight in engine.weights().items()}
    assert not math.isfinite(engine.step(model(**batches["video"]).loss * scale, 1e-3))
    assert all(weight.equal(before[name]) for name, weight in engine.weights().items())


def test_without_parts_there_are_the_two_groups_of_earlier_runs() -> None:
    model, _ = tiny_model()
    grouped = {
        by_part: build_optimizer(model, tiny_recipe().optimizer, by_part=by_part) for by_part in (0, 1)
    }
    matrices, vectors = grouped[0].param_groups
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert [id(one) for one in matrices["params"]] == [id(one) for one in trained if one.ndim > 1]
    assert [id(one) for one in vectors["params"]] == [id(one) for one in trained if one.ndim <= 1]
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.01, 0.0)
    shared = [id(one) for group in grouped[1].param_groups for one in group["params"]]
    assert sorted(shared) == sorted(map(id, trained))
