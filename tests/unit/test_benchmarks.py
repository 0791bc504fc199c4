"""Tests that the benchmark programs run; docs/benchmarks.md has their results."""

import pytest

from benchmarks import encoding
from benchmarks.model_variants import VARIANTS, recipe_of
from llava_av.model import fresh_model
from tests.model_samples import clip


def test_encoding_computes_the_same_as_transformers_and_prints_its_table(capsys):
    encoding.main(["--size", "tiny", "--frames", "2", "--audio-clips", "1", "--rounds", "1"])
    printed = capsys.readouterr().out
    assert "largest difference between logits: 0.0e+00" in printed
    assert all(line in printed for line in ("| frames to tokens |", "| audio to tokens |"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_differs_from_the_recipe_and_makes_a_model(variant):
    recipe = recipe_of(variant, steps=None)
    assert (recipe == recipe_of("none", steps=None)) == (not VARIANTS[variant])
    model, processor = fresh_model(recipe, ("red", "high tone"))
    batch = processor.collate([processor.encode([("human", "Which?"), ("gpt", "red")], clip(0))])
    assert model(**batch).loss.isfinite()
