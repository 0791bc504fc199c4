"""`torchrun … -m tests.resharding FOLDER save|load`: engines save shards, or load those of each engine.

Prints as JSON: of each engine that saves, a digest of its weights and the losses of steps after that; of each
that loads, whether its weights are the saved ones, and the losses of the same steps.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from llava_av.checkpoints import state_digest
from llava_av.training.collective import CpuGroup
from llava_av.training.sharded_state import frozen_checksums
from tests.engine_group import ENGINES, EVERYTHING, EngineSample, print_from_group
from tests.sharded_files import load_engine, save_engine

OTHERS = {"torch": "zero-2", "zero-1": "zero-3", "zero-2": "torch", "zero-3": "zero-1"}
SAVED_AFTER = 2
FURTHER = 2


class Trained(EngineSample):
    """An engine that trains the connectors and the language model."""

    def __init__(self, name: str) -> None:
        parts = ("vision_connector", "audio_connector", "language")
        super().__init__(name, model__trainable_parts=parts)

    def steps(self, count: int) -> list[float]:
        losses = []
        for _ in range(count):
            loss = self.engine.model(**self.batch(EVERYTHING)).loss
            self.engine.backward(loss, last=True)
            self.engine.step(1e-3)
            losses.append(float(loss.detach()))
        return losses

    def digest(self) -> str:
        """Return a digest of the weights, in rank zero."""
        weights = self.engine.weights()
        return state_digest(weights) if distributed.get_rank() == 0 else ""


def saved(name: str, folder: Path, group: CpuGroup) -> dict[str, Any]:
    sample = Trained(name)
    sample.steps(SAVED_AFTER)
    save_engine(sample.engine, folder / name, group)
    return {"weights": sample.digest(), "losses": sample.steps(FURTHER)}


def loaded(name: str, folder: Path, group: CpuGroup) -> dict[str, Any]:
    sample = Trained(name)
    index = load_engine(sample.engine, folder)
    frozen = frozen_checksums(sample.engine.frozen(), torch.float32, group)
    weights = sample.digest()
    return {
        "weights": weights,
        "frozen": len(frozen) if frozen == index.frozen else 0,
        "updates": sorted(set(index.updates.values())),
        "losses": sample.steps(FURTHER),
    }


def results(rank: int) -> dict[str, Any]:
    folder, group = Path(sys.argv[1]), CpuGroup()
    if sys.argv[2] == "save":
        return {name: saved(name, folder, group) for name in ENGINES}
    return {
        f"{before} {after}": loaded(after, folder / before, group)
        for before, other in OTHERS.items()
        for after in (before, other)
    }


if __name__ == "__main__":
    print_from_group(results)
