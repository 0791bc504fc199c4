"""`torchrun … -m tests.mixed_batches`: each engine trains two processes on mixes of samples; prints JSON."""

import json
from typing import Any

import torch
from torch import distributed

from llava_av.media.clip import Clip
from llava_av.model.parts import PARTS, parts_with_input
from llava_av.training.engine import build_engine, start_processes
from tests.model_samples import clip, image, sound, tiny_model, tiny_recipe

TURNS = [("human", "Which colour is shown?"), ("gpt", "red")]
TEXT = (Clip(),)
IMAGE = (Clip(images_nhwc=(image(),)),)
SILENT = (clip(0, samples=None),)
SOUND = (Clip(audios=(sound(samples=9_000),)),)
SOUNDS = tuple(Clip(audios=(sound(samples=samples),)) for samples in (9_000, 12_000, 16_000))
FILM = (clip(1),)
EVERYTHING = (*FILM, *IMAGE, *SOUNDS, *TEXT, *SILENT)
ENGINES = {"torch": ("torch", 2), "zero-2": ("deepspeed", 2), "zero-3": ("deepspeed", 3)}
# what each of two processes has in a step
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


MODELS: dict[str, dict[str, Any]] = {
    "perceiver": {"model__resampler": "perceiver", "model__resampler_options": {"queries": 2}},
    "Q-Former": {
        "model__resampler": "qformer",
        "model__resampler_options": {"queries": 2},
        "model__audio_downsampler": "qformer",
        "model__audio_downsampler_options": {"window": 25, "queries": 1},
    },
}


def train(kind: str, stage: int, parts: dict[str, Any], rank: int) -> dict[str, Any]:
    """Losses, gradient norms and shapes of the weights, the same in each process."""
    recipe = tiny_recipe(
        training__engine=kind,
        training__zero_stage=stage,
        training__num_processes=distributed.get_world_size(),
        optimizer__max_grad_norm=1e9,
    )
    model, processor = tiny_model(**parts, model__video_newline="frame")
    model.train()
    engine = build_engine(model, recipe)
    losses, norms = [], []
    for step in STEPS:
        batches = [processor.collate([processor.encode(TURNS, one) for one in clips]) for clips in step]
        used = {part for batch in batches for part in parts_with_input(model.config, batch)}
        loss = engine.model(**batches[rank]).loss
        norms.append(engine.step(loss, 1e-3, set(PARTS) - used))
        total = loss.detach().clone()
        distributed.all_reduce(total)
        losses.append(total.item())
    shapes = {name: list(weight.shape) for name, weight in engine.weights().items()}
    return {"losses": losses, "norms": norms, "shapes": shapes}


def main() -> None:
    rank, _ = start_processes("deepspeed")
    trained = {
        model: {name: train(*engine, parts, rank) for name, engine in ENGINES.items()}
        for model, parts in MODELS.items()
    }
    if rank == 0:
        print(json.dumps(trained))
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
