"""`torchrun … -m tests.absent_parts`: engines take steps without media; prints what moved as JSON."""

import math
from pathlib import Path
from typing import Any

import torch

from llava_av.checkpoints import state_digest
from llava_av.model.parts import PARTS, part_of
from llava_av.training.collective import CpuGroup
from tests.engine_group import (
    ENGINES,
    EVERYTHING,
    SOUNDS,
    TEXT,
    EngineSample,
    print_from_group,
    shared_folder,
)
from tests.sharded_files import load_engine, own_digest, save_engine

# The default engine takes many; what holds for a few of the others is then no accident.
STEPS = {"torch": 5, "zero-1": 5, "zero-2": 300, "zero-3": 5}


class Tried(EngineSample):
    """An engine whose weights are compared before and after steps."""

    def step(self, clips: tuple[Any, ...], unused: set[str], scale: float = 1.0) -> float:
        self.engine.backward(self.engine.model(**self.batch(clips)).loss * scale, last=True)
        return float(self.engine.step(1e-2, unused))

    def moved(self, before: dict[str, torch.Tensor]) -> list[str]:
        """Return the parts with a weight that is not bit-identical to before."""
        after = self.engine.weights()
        return sorted({part_of(name) for name, weight in after.items() if not weight.equal(before[name])})

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: weight.clone() for name, weight in self.engine.weights().items()}

    def digests(self) -> tuple[str, str]:
        return own_digest(self.engine), state_digest(self.engine.weights())


def without_media(engine: str, steps: int) -> dict[str, Any]:
    """Return the parts that move in steps with all media, with text alone, and with audio alone."""
    tried = Tried(engine)
    found = {}
    for name, clips, unused, count in (
        ("everything", EVERYTHING, set(), 2),
        ("text", TEXT, set(PARTS), steps),
        ("audio", SOUNDS, set(PARTS) - {"audio"}, 2),
    ):
        before = tried.weights()
        for _ in range(count):
            tried.step(clips, unused)
        found[name] = tried.moved(before)
    return found


def restored(engine: str, folder: Path) -> bool:
    """Return whether a state with a part that was never updated is the same after saving and loading."""
    tried, again = Tried(engine), Tried(engine)
    tried.step(EVERYTHING, {"resampler", "newline"})
    save_engine(tried.engine, folder, CpuGroup())
    load_engine(again.engine, folder)
    same = tried.digests() == again.digests()
    for one in (tried, again):
        one.step(EVERYTHING, set())
    return same and tried.digests() == again.digests()


def not_finite(engine: str, rank: int, scale: float) -> dict[str, Any]:
    """Take a step whose gradients are not finite in one of the processes."""
    tried = Tried(engine)
    tried.step(EVERYTHING, set())
    before = tried.weights()
    norm = tried.step(EVERYTHING, set(), scale if rank == 1 else 1.0)
    return {"finite": math.isfinite(norm), "moved": tried.moved(before)}


def results(rank: int) -> dict[str, Any]:
    with shared_folder(rank) as root:
        found: dict[str, Any] = {}
        for name in ENGINES:
            found[name] = without_media(name, STEPS[name])
            folder = root / name
            folder.mkdir(exist_ok=True)
            found[name]["restored"] = restored(name, folder)
            for scale in (math.nan, math.inf):
                found[name][f"times {scale}"] = not_finite(name, rank, scale)
        return found


if __name__ == "__main__":
    print_from_group(results)
