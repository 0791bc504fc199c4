"""`torchrun … -m tests.absent_parts`: engines take steps without media; prints what moved as JSON."""

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from llava_av.checkpoints import state_digest
from llava_av.model.parts import PARTS, part_of
from llava_av.training.engine import Engine, build_engine, start_processes
from tests.mixed_batches import ENGINES, EVERYTHING, SOUNDS, TEXT, TURNS
from tests.model_samples import tiny_model, tiny_recipe

# The default engine takes many; what holds for a few of the others is then no accident.
STEPS = {"torch": 5, "zero-2": 300, "zero-3": 5}


class Tried:
    """An engine around a tiny model."""

    def __init__(self, kind: str, stage: int, *, by_part: bool = True) -> None:
        processes = distributed.get_world_size()
        recipe = tiny_recipe(
            training__engine=kind, training__zero_stage=stage, training__num_processes=processes
        )
        self.model, self.processor = tiny_model(model__video_newline="frame")
        self.model.train()
        self.engine: Engine = build_engine(self.model, recipe, by_part=by_part)

    def step(self, clips: tuple[Any, ...], unused: set[str], scale: float = 1.0) -> float:
        batch = self.processor.collate([self.processor.encode(TURNS, one) for one in clips])
        return self.engine.step(self.engine.model(**batch).loss * scale, 1e-2, unused)

    def moved(self, before: dict[str, torch.Tensor]) -> list[str]:
        """Parts with a weight that is not bit for bit what it was."""
        after = self.engine.weights()
        return sorted({part_of(name) for name, weight in after.items() if not weight.equal(before[name])})

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: weight.clone() for name, weight in self.engine.weights().items()}

    def digests(self) -> tuple[str, str]:
        return state_digest(self.engine.optimizer_state()), state_digest(self.engine.weights())


def without_media(engine: tuple[str, int], steps: int) -> dict[str, Any]:
    """Parts that move in steps with all media, with text alone, and with audio alone."""
    tried = Tried(*engine)
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


def restored(engine: tuple[str, int], folder: Path, *, by_part: bool) -> bool:
    """Whether a state, in which a part was never updated, is the same after saving and loading."""
    tried, again = Tried(*engine, by_part=by_part), Tried(*engine, by_part=by_part)
    unused = {"resampler", "newline"} if by_part else set()
    tried.step(EVERYTHING, unused)
    tried.engine.save(folder)
    distributed.barrier()
    again.engine.load(folder)
    same = tried.digests() == again.digests()
    for one in (tried, again):
        one.step(EVERYTHING, set())
    return same and tried.digests() == again.digests()


def not_finite(engine: tuple[str, int], rank: int, scale: float) -> dict[str, Any]:
    """What a step does whose gradients are not finite in one of the processes."""
    tried = Tried(*engine)
    tried.step(EVERYTHING, set())
    before = tried.weights()
    norm = tried.step(EVERYTHING, set(), scale if rank == 1 else 1.0)
    return {"finite": math.isfinite(norm), "moved": tried.moved(before)}


def main() -> None:
    rank, _ = start_processes("deepspeed")
    shared: list[Any] = [tempfile.mkdtemp() if rank == 0 else None]
    distributed.broadcast_object_list(shared, src=0)
    found: dict[str, Any] = {}
    for name, engine in ENGINES.items():
        found[name] = without_media(engine, STEPS[name])
        for by_part in (True, False):
            folder = Path(shared[0]) / f"{name}-{by_part}"
            folder.mkdir(exist_ok=True)
            found[name][f"restored, by_part={by_part}"] = restored(engine, folder, by_part=by_part)
        for scale in (math.nan, math.inf):
            found[name][f"times {scale}"] = not_finite(engine, rank, scale)
    if rank == 0:
        print(json.dumps(found))
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
