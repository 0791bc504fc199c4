"""`torchrun … -m tests.mixed_batches ENGINE STAGE`: two processes train on mixes of samples; prints JSON."""

import json
import sys

import torch
from torch import distributed

from llava_av.media.clip import Clip
from llava_av.training.engine import build_engine, start_processes
from tests.model_samples import clip, image, sound, tiny_model, tiny_recipe

TURNS = [("human", "Which colour is shown?"), ("gpt", "red")]
TEXT = (Clip(),)
IMAGE = (Clip(images_nhwc=(image(),)),)
SILENT = (clip(0, samples=None),)
SOUND = (Clip(sounds=(sound(samples=9_000),)),)
SOUNDS = tuple(Clip(sounds=(sound(samples=samples),)) for samples in (9_000, 12_000, 16_000))
FILM = (clip(1),)
EVERYTHING = (*FILM, *IMAGE, *SOUNDS, *TEXT, *SILENT)
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


def main(kind: str, stage: int) -> None:
    rank, processes = start_processes(kind)
    recipe = tiny_recipe(
        training__engine=kind,
        training__zero_stage=stage,
        training__processes=processes,
        optimizer__max_grad_norm=1e9,
    )
    model, processor = tiny_model(
        model__resampler="perceiver", model__resampler_options={"queries": 2}, model__video_newline="frame"
    )
    model.train()
    engine = build_engine(model, recipe)
    losses, norms = [], []
    for step in STEPS:
        batch = processor.collate([processor.encode(TURNS, one) for one in step[rank]])
        loss = engine.model(**batch).loss
        norms.append(engine.step(loss, 1e-3))
        total = loss.detach().clone()
        distributed.all_reduce(total)
        losses.append(total.item())
    weights = engine.weights()
    if rank == 0:
        shapes = {name: list(weight.shape) for name, weight in weights.items()}
        print(json.dumps({"losses": losses, "norms": norms, "shapes": shapes}))
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], int(sys.argv[2]))
