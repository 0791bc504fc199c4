"""Estimates against published counts and tiny models that are really trained."""

import shutil
import time
from collections import Counter

import pytest
import torch

from llava_av.errors import UserError
from llava_av.model import base_model, fresh_model
from llava_av.model.conversion.importing import import_model
from llava_av.model.parts import trainable_parts
from llava_av.training.engines import build_engine
from llava_av.workflows.estimate.estimating import Estimator, longest_batch
from llava_av.workflows.estimate.meta_model import build_meta_model, model_size
from tests.estimate_samples import CONNECTORS, seven_b, with_vocabulary
from tests.llava_samples import write_audio_tower, write_llava
from tests.model_samples import TEXTS, clip, tiny_model, tiny_recipe

TURNS = [("human", "Which colour is shown? What do you hear?"), ("gpt", "red green")]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model__trainable_parts": CONNECTORS},
        {"model__audio": None, "model__resampler": "perceiver", "model__resampler_options": {"queries": 3}},
        {"model__vision": None},
        {"model__video_newline": "frame", "model__vision_feature_layer": -2},
    ],
    ids=["all", "projectors", "vision alone", "audio alone", "newline"],
)
def test_parameters_are_those_of_the_built_model(changes):
    recipe = tiny_recipe(**changes)
    model, processor = fresh_model(recipe, TEXTS)
    every, trained = Counter(), Counter()
    part_of = trainable_parts(model)
    for name, weight in model.named_parameters():
        every[part_of[name]] += weight.numel()
        trained[part_of[name]] += weight.numel() * weight.requires_grad
    size = model_size(build_meta_model(with_vocabulary(recipe, processor)))
    assert {part.name: part.parameters for part in size.parts} == every
    assert {part.name: part.trained for part in size.parts} == trained
    assert size.parameters == sum(every.values())


def test_a_model_of_seven_billion_has_the_published_parameters_and_takes_seconds():
    started = time.process_time()
    model = build_meta_model(seven_b())
    assert time.process_time() - started < 20

    def count(module: torch.nn.Module) -> int:
        return sum(weight.numel() for weight in module.parameters())

    assert count(model.language_model) == 7_615_616_512
    assert count(model.vision_tower) == 428_225_600
    assert count(model.audio_tower) == 315_438_720
    # transformers makes the vector for SpecAugment in memory.
    assert sum(weight.numel() for weight in model.parameters() if not weight.is_meta) <= 1024


def test_tokens_are_those_of_the_longest_sample():
    recipe = tiny_recipe(training__num_processes=8)
    model = build_meta_model(recipe)
    # 32 frames of one token; 10 s at 16 kHz are 499 features, 25 of which are a token.
    tokens, batch = longest_batch(model, recipe, 100)
    assert tokens == 32 + 20 + 100
    assert (batch.samples, batch.rows, batch.row_tokens, batch.labelled_tokens) == (6, 6, 152, 600)
    packed = recipe.with_overrides({"training.pack_length": 500})
    tokens, batch = longest_batch(model, packed, 100)
    assert (tokens, batch.rows, batch.row_tokens, batch.packed) == (152, 2, 456, True)
    assert longest_batch(model, recipe.with_overrides({"model.max_tokens": 77}), 100)[0] == 77
    assert Estimator(text_tokens=100).estimate(recipe).tokens_per_step == 48 * 152


def test_optimizer_states_and_checkpoint_are_those_of_a_real_step():
    language = dict(tiny_recipe().model.language, hidden_size=256, intermediate_size=1024)
    recipe = tiny_recipe(
        model__language=language,
        training__engine="torch",
        training__num_processes=1,
        model__trainable_parts=["language"],
    )
    model, processor = fresh_model(recipe, TEXTS)
    engine = build_engine(model.train(), recipe)
    batch = processor.collate([processor.encode(TURNS, clip())])
    engine.backward(engine.model(**batch).loss, last=True)
    gradients = sum(weight.grad.nbytes for weight in model.parameters() if weight.grad is not None)
    engine.step(1e-3)
    found = Estimator().estimate(with_vocabulary(recipe, processor))
    fragments = list(engine.fragments())
    states = [tensor for one in fragments for tensor in (*one.moments.values(), one.updates)]
    assert found.memory.optimizer_states == sum(tensor.nbytes for tensor in states)
    assert found.memory.gradients == gradients
    assert found.checkpoint_bytes == sum(
        tensor.nbytes for one in fragments for tensor in one.tensors.values()
    )


def test_a_base_model_needs_its_config_alone(tmp_path):
    recipe = tiny_recipe(training__engine="torch")
    model, processor = tiny_model()
    model.save_pretrained(tmp_path / "whole")
    (tmp_path / "config").mkdir()
    shutil.copy(tmp_path / "whole" / "config.json", tmp_path / "config")
    base = tiny_recipe(model={"base": str(tmp_path / "config")}, training__engine="torch")
    found, fresh = (Estimator().estimate(one) for one in (base, with_vocabulary(recipe, processor)))
    assert (found.model, found.memory.total) == (fresh.model, fresh.memory.total)
    # Only a base model is read shard by shard.
    assert (found.memory.start, fresh.memory.start) == (0, 4 * fresh.model.parameters)
    with pytest.raises(UserError, match=r"media\.frame_size=64 .* must be 32"):
        Estimator().estimate(base.with_overrides({"media.frame_size": 64}))


def test_an_imported_model_has_the_parameters_of_its_weights(tmp_path):
    source = write_llava("llava_onevision", tmp_path / "source")
    import_model(source, tmp_path / "model", audio=write_audio_tower(tmp_path / "audio"))
    recipe = tiny_recipe(model={"base": str(tmp_path / "model"), "trainable_parts": CONNECTORS})
    weights = base_model(recipe, tmp_path / "model")[0].parameters()
    counts = [(weight.numel(), weight.numel() * weight.requires_grad) for weight in weights]
    size = Estimator().estimate(recipe).model
    assert (size.parameters, size.trained) == tuple(map(sum, zip(*counts, strict=True)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__vision": {"model_type": "steam"}}, "steam"),
        ({"model__vision": {"model_type": "siglip_vision_model", "hidden_size": "wide"}}, "hidden_size"),
        ({"model": {"base": "/nowhere/at/all"}}, "/nowhere/at/all"),
    ],
)
def test_a_model_that_cannot_be_built_is_one_line(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        build_meta_model(tiny_recipe(**changes))
    assert "\n" not in str(caught.value)
