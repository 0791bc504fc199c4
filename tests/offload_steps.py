"""`torchrun … -m tests.offload_steps`: ZeRO with its optimizer in host memory and without; prints JSON."""

import math
from itertools import product
from pathlib import Path
from typing import Any

import torch

from llava_av.model.parts import PARTS
from llava_av.training.collective import CpuGroup
from tests.engine_group import EVERYTHING, FILM, SOUNDS, TEXT, EngineSample, print_from_group, shared_folder
from tests.sharded_files import load_engine, own_digest, save_engine

STAGES = ("zero-1", "zero-2", "zero-3")
PRECISIONS = ("fp32", "bf16")


class Trained(EngineSample):
    """An engine that takes steps of several micro-batches, and one without media among them."""

    def step(self, *micro_batches: Any, unused: Any = (), scale: float = 1.0) -> tuple[float, float]:
        loss = torch.zeros(())
        for number, clips in enumerate(micro_batches, start=1):
            loss = self.engine.model(**self.batch(clips)).loss * scale
            self.engine.backward(loss, last=number == len(micro_batches))
        return float(loss.detach()), float(self.engine.step(1e-3, unused))

    def steps(self, *, accumulates: bool) -> list[float]:
        several = (FILM, SOUNDS) if accumulates else (EVERYTHING,)
        steps = (several, (TEXT,), several, (EVERYTHING,))
        return [
            value
            for batches in steps
            for value in self.step(*batches, unused=PARTS if batches == (TEXT,) else ())
        ]


def compared(name: str, precision: str, folder: Path, rank: int) -> dict[str, Any]:
    group = CpuGroup()
    # The recipe refuses to add up gradients of ZeRO 1 in bfloat16.
    accumulates = (name, precision) != ("zero-1", "bf16")
    plain, offloaded = (Trained(name, precision=precision, offload=offload) for offload in (False, True))
    numbers = [one.steps(accumulates=accumulates) for one in (plain, offloaded)]
    found = {"plain": numbers[0], "offloaded": numbers[1], "restored": []}
    for number, (saved, others) in enumerate(((offloaded, False), (plain, True), (offloaded, True))):
        shared = folder / str(number)
        shared.mkdir(exist_ok=True)
        save_engine(saved.engine, shared, group)
        loaded = Trained(name, precision=precision, offload=others)
        load_engine(loaded.engine, shared)
        same = own_digest(saved.engine) == own_digest(loaded.engine)
        found["restored"].append([same, loaded.step(EVERYTHING), saved.step(EVERYTHING)])
    before = own_digest(offloaded.engine)
    _, norm = offloaded.step(EVERYTHING, scale=math.nan if rank == 1 else 1.0)
    found["nan"] = {"finite": math.isfinite(norm), "same": own_digest(offloaded.engine) == before}
    found["after"] = offloaded.step(EVERYTHING)
    return found


def results(rank: int) -> dict[str, Any]:
    found = {}
    for name, precision in product(STAGES, PRECISIONS):
        with shared_folder(rank) as folder:
            found[f"{name} {precision}"] = compared(name, precision, folder, rank)
    return found


if __name__ == "__main__":
    print_from_group(results)
