"""`torchrun … -m tests.bf16_steps`: engines train in bfloat16; prints losses and weights as JSON."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from llava_av.training.collective import CpuGroup
from tests.engine_group import ENGINES, EVERYTHING, EngineSample, print_from_group, shared_folder
from tests.fused_optimizer import fused_adamw
from tests.sharded_files import load_engine, own_digest, save_engine

STEPS = 4
TINY_STEPS = 4
TINY_RATE = 1e-5
"""Learning rate whose single step is lost in a bfloat16 weight near one: the next larger one is 1.0078."""


class Trained(EngineSample):
    """An engine that takes steps on one batch."""

    def step(self, learning_rate: float) -> float:
        loss = self.engine.model(**self.batch(EVERYTHING)).loss
        assert loss.dtype == torch.float32
        self.engine.backward(loss, last=True)
        self.engine.step(learning_rate)
        return float(loss.detach())


def master_weights(sample: EngineSample) -> list[Tensor]:
    """Return this process's float32 weights."""
    return [one.weight.clone() for one in sample.engine.fragments()]


def losses(name: str, precision: str) -> list[float]:
    sample = Trained(name, precision=precision)
    return [sample.step(1e-3) for _ in range(STEPS)]


def has_float32_weights(name: str) -> dict[str, Any]:
    """Return whether steps that bfloat16 weights would lose add up."""
    sample = Trained(name, precision="bf16")
    before = master_weights(sample)
    for _ in range(TINY_STEPS):
        sample.step(TINY_RATE)
    after = master_weights(sample)
    moved = max(float((a - b).abs().max()) for a, b in zip(after, before, strict=True) if a.numel())
    return {"dtypes": sorted({str(one.dtype) for one in after}), "moved": moved}


def restored(name: str, folder: Path) -> bool:
    one, other = Trained(name, precision="bf16"), Trained(name, precision="bf16")
    one.step(1e-3)
    save_engine(one.engine, folder, CpuGroup())
    load_engine(other.engine, folder)
    for each in (one, other):
        each.step(1e-3)
    return own_digest(one.engine) == own_digest(other.engine)


def moved_by_nan(name: str, rank: int) -> bool:
    """Return whether NaN in the gradients of one process moves a weight of any."""
    sample = Trained(name, precision="bf16")
    before = master_weights(sample)
    loss = sample.engine.model(**sample.batch(EVERYTHING)).loss * (math.nan if rank == 1 else 1.0)
    sample.engine.backward(loss, last=True)
    assert not math.isfinite(sample.engine.step(1e-3))
    after = master_weights(sample)
    moved = torch.tensor(not all(map(torch.equal, before, after)), dtype=torch.int)
    distributed.all_reduce(moved)
    return bool(moved)


def results(rank: int) -> dict[str, Any]:
    with shared_folder(rank) as root:
        found: dict[str, Any] = {
            "fp32": losses("torch", "fp32"),
        }
        for name in ENGINES:
            folder = root / name
            folder.mkdir(exist_ok=True)
            found[name] = {
                "losses": losses(name, "bf16"),
                "restored": restored(name, folder),
                "moved by NaN": moved_by_nan(name, rank),
                **has_float32_weights(name),
            }
        with fused_adamw():
            found["torch fused"] = {"moved by NaN": moved_by_nan("torch", rank)}
        return found


if __name__ == "__main__":
    print_from_group(results)
