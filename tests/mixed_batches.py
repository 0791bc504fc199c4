"""`torchrun … -m tests.mixed_batches`: each engine trains two processes on mixes of samples; prints JSON."""

from typing import Any

import torch
from torch import distributed

from llava_av.datasets.schema import Sample, Turn
from llava_av.model import token_loss
from llava_av.model.parts import PARTS, parts_with_input, recompute_activations
from llava_av.training.validation import Validator
from tests.engine_group import (
    ENGINES,
    EVERYTHING,
    FILM,
    IMAGE,
    SILENT,
    SOUND,
    SOUNDS,
    TEXT,
    TURNS,
    EngineSample,
    print_from_group,
)
from tests.model_samples import tiny_recipe

# The samples of each of two processes in a step.
STEPS = (
    (FILM, TEXT),
    (SOUND, SILENT),
    (SILENT, SOUND),
    (SOUNDS, SOUND),
    (TEXT, EVERYTHING),
    (IMAGE, SOUNDS),
    (EVERYTHING, IMAGE),
    (TEXT, TEXT),
)
# Chunks of eight, of which the processes take turns; the last one has fewer.
HELD_OUT = (*8 * TEXT, *8 * SOUND, *(*SOUNDS, *SOUNDS, *SOUND, *SILENT), *(*FILM, *IMAGE))
MEASURED_BEFORE = (0, 4)
MODELS: dict[str, dict[str, Any]] = {
    "perceiver": {"model__resampler": "perceiver", "model__resampler_options": {"queries": 2}},
    "Q-Former": {
        "model__resampler": "qformer",
        "model__resampler_options": {"queries": 2},
        "model__audio_downsampler": "qformer",
        "model__audio_downsampler_options": {"window": 25, "queries": 1},
    },
}


def train(name: str, parts: dict[str, Any], rank: int) -> dict[str, Any]:
    """Return losses, gradient norms and shapes of the weights, the same in each process."""
    sample = EngineSample(name, max_grad_norm=1e9, **parts)
    if parts["model__resampler"] == "qformer":
        recompute_activations(sample.model, ("vision_tower", "audio_tower", "language"))
    losses, norms, held_out = [], [], []
    validator = held_out_loss(sample)
    for number, step in enumerate(STEPS):
        if number in MEASURED_BEFORE:
            measured = validator.measure()
            held_out.append([measured[f"held_out/loss{name}"] for name in ("", "/modality/text")])
        batches = [sample.batch(clips) for clips in step]
        used = {part for batch in batches for part in parts_with_input(sample.model.config, batch)}
        loss = sample.engine.model(**batches[rank]).loss
        sample.engine.backward(loss, last=True)
        norms.append(float(sample.engine.step(1e-3, set(PARTS) - used)))
        total = loss.detach().clone()
        distributed.all_reduce(total)
        losses.append(total.item())
    shapes = {name: list(weight.shape) for name, weight in sample.engine.weights().items()}
    return {"losses": losses, "norms": norms, "held_out": held_out, "shapes": shapes}


def held_out_loss(sample: EngineSample) -> Validator:
    """Return a measurement in which each chunk lacks modalities that the other process has at the time."""
    turns = [Turn(speaker="human", value=TURNS[0][1]), Turn(speaker="gpt", value=TURNS[1][1])]
    clips = {str(number): clip for number, clip in enumerate(HELD_OUT)}
    samples = [Sample(id=name, conversations=turns) for name in clips]
    device = torch.device("cpu")
    return Validator(
        sample.engine, sample.processor, lambda one: clips[one.id], samples, tiny_recipe(), device
    )


def results(rank: int) -> dict[str, Any]:
    # More chunks in some processes than in others.
    token_loss.CHUNK = 4
    return {model: {name: train(name, parts, rank) for name in ENGINES} for model, parts in MODELS.items()}


if __name__ == "__main__":
    print_from_group(results)
