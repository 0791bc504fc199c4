"""Copy of a process's training state in host memory, for writing while training continues."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from llava_av.training.engines import Fragment
from llava_av.training.engines.interface import MOMENTS

__all__ = ["HostCopy"]


class HostCopy:
    """Host memory for the ranges of one process, allocated once and used for every checkpoint."""

    def __init__(self, fragments: Iterable[Fragment]) -> None:
        """Allocate memory for weights and moments of the ranges, which do not change in a training."""
        self._memory = {
            (kind, one.name): _touched(one.weight) for one in fragments for kind in ("weight", *MOMENTS)
        }

    def take(self, fragments: Iterable[Fragment]) -> list[Fragment]:
        """Return copies of ranges, valid until the next call."""
        copies = [
            replace(
                one,
                weight=self._copy("weight", one.name, one.weight),
                moments={kind: self._copy(kind, one.name, moment) for kind, moment in one.moments.items()},
            )
            for one in fragments
        ]
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return copies

    def _copy(self, kind: str, name: str, source: Tensor) -> Tensor:
        return self._memory[kind, name].copy_(source, non_blocking=True)


def _touched(like: Tensor) -> Tensor:
    """Return zeros in memory that the operating system has mapped, so that no write waits for it."""
    memory = torch.empty(like.numel(), dtype=torch.float32, pin_memory=torch.cuda.is_available())
    return memory.fill_(0)
