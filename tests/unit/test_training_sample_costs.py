"""Costs of samples: what the model computes for them, and what they share."""

import pytest

from llava_av.datasets.schema import Sample
from llava_av.media.clip import SampleSize
from llava_av.training.model_flops import BatchCounts, ModelFlops, trained_shares
from llava_av.training.sample_costs import CostEstimate
from tests.model_samples import tiny_model

SIZE = SampleSize(tokens=40, frames=(4,), audios=(16_000,))


def sample(number: int, **media: str) -> Sample:
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "red"}]
    return Sample.model_validate({"id": f"s{number}", "conversations": turns, **media})


def test_costs_are_the_operations_of_forward_and_backward() -> None:
    model, _ = tiny_model()
    flops = ModelFlops(model.config)
    two, text = sample(0, video="a.mp4"), sample(1)
    trained = trained_shares(model)
    estimate = CostEstimate(flops, trained=trained)
    costs = [estimate.of(two, SIZE), estimate.of(two, SIZE), estimate.of(text, SampleSize(tokens=40))]
    counts = BatchCounts(tokens=(40,), labelled=0, frames=SIZE.frames, audios=SIZE.audios)
    assert costs[0].language + costs[0].towers == pytest.approx(flops.training(counts, trained), rel=0.02)
    assert costs[0] == costs[1]
    assert (costs[2].towers, costs[2].language) == (0, costs[0].language)
    assert costs[2].media != costs[0].media


def test_frozen_towers_have_no_backward_pass_and_the_language_model_has() -> None:
    model, _ = tiny_model(model__trainable_parts=["vision_connector"])
    flops = ModelFlops(model.config)
    frames = SampleSize(tokens=40, frames=(4,))
    trained = trained_shares(model)
    parts = ["language", "vision_tower"]
    frozen = CostEstimate(flops, trained=trained).of(sample(0, video="a.mp4"), frames)
    again = CostEstimate(flops, trained=trained, recomputed=parts).of(sample(0, video="a.mp4"), frames)
    forward = flops.forward(BatchCounts(tokens=(40,), labelled=0, frames=(4,)))
    assert frozen.language == 2 * forward["language"]
    assert frozen.towers == forward["vision_tower"] + 3 * forward["vision_connector"]
    assert again.language == 3 * forward["language"]
    assert again.towers == frozen.towers


def test_tokens_are_the_cost_if_operations_cannot_be_counted() -> None:
    cost = CostEstimate(None, trained={}).of(sample(0, video="a.mp4"), SIZE)
    assert (cost.language, cost.towers) == (40, 0)
