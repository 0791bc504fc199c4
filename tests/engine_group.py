"""Groups of real processes in which each engine trains a tiny model, and the samples for them."""

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from llava_av.media.clip import Clip
from llava_av.training.engines import Engine, build_engine, start_processes, torch_engine
from tests.forked_group import ForkServer
from tests.model_samples import clip, image, tiny_model, tiny_recipe, waveform

TURNS = [("human", "Which colour is shown?"), ("gpt", "red")]
TEXT = (Clip(),)
IMAGE = (Clip(images_nhwc=(image(),)),)
SILENT = (clip(0, samples=None),)
SOUND = (Clip(audios=(waveform(samples=9_000),)),)
SOUNDS = tuple(Clip(audios=(waveform(samples=samples),)) for samples in (9_000, 12_000, 16_000))
FILM = (clip(1),)
EVERYTHING = (*FILM, *IMAGE, *SOUNDS, *TEXT, *SILENT)
ENGINES = {
    "torch": ("torch", 2),
    "zero-1": ("deepspeed", 1),
    "zero-2": ("deepspeed", 2),
    "zero-3": ("deepspeed", 3),
}
"""Engine and ZeRO stage of each by name."""


class EngineSample:
    """One of `ENGINES` around a tiny model."""

    def __init__(
        self,
        name: str,
        *,
        max_grad_norm: float = 1.0,
        precision: str = "fp32",
        offload: bool = False,
        **parts: object,
    ) -> None:
        kind, stage = ENGINES[name]
        recipe = tiny_recipe(
            training__engine=kind,
            training__zero_stage=stage,
            training__num_processes=distributed.get_world_size(),
            training__precision=precision,
            training__offload_optimizer=offload,
            optimizer__max_grad_norm=max_grad_norm,
        )
        self.model, self.processor = tiny_model(model__video_newline="frame", **parts)
        self.engine: Engine = build_engine(self.model.train(), recipe)

    def batch(self, clips: tuple[Clip, ...]) -> dict[str, Any]:
        return dict(self.processor.collate([self.processor.encode(TURNS, one) for one in clips]))


def print_from_group(result: Callable[[int], dict[str, Any]]) -> None:
    """Join the group, and print the `result(rank)` of rank zero as JSON."""
    torch.set_num_threads(1)
    # So that tiny models have blocks that are sharded by themselves.
    torch_engine.MIN_BLOCK_PARAMETERS = 0
    rank, _ = start_processes("deepspeed")
    found = result(rank)
    if rank == 0:
        print(json.dumps(found))
    distributed.barrier()
    distributed.destroy_process_group()


@contextlib.contextmanager
def shared_folder(rank: int) -> Iterator[Path]:
    """Provide a temporary folder of the group, which rank zero removes when all have left the block."""
    with tempfile.TemporaryDirectory() if rank == 0 else contextlib.nullcontext() as made:
        shared: list[Any] = [made]
        distributed.broadcast_object_list(shared, src=0)
        yield Path(shared[0])
        distributed.barrier()


def run_group(module: str, *arguments: str, timeout_s: float, processes: int = 2) -> Any:
    """Run a module that calls `print_from_group` in some processes; return what it prints."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        code = ForkServer().run_module(module, arguments, log=log, processes=processes, timeout_s=timeout_s)
        text = log.read_text(errors="replace")
    assert code == 0, text[-4000:]
    return json.loads(next(line for line in text.splitlines() if line.startswith("{")))
