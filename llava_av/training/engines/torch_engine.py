"""Plain PyTorch; with several processes, DistributedDataParallel averages the gradients."""

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from llava_av.recipe import Recipe
from llava_av.training.engines.interface import updated_states
from llava_av.training.optimizer import build_optimizer, prepare_step
from llava_av.training.safe_loading import load_data

__all__ = ["TorchEngine"]

_FILE = "torch_engine.pt"


class TorchEngine:
    """`Engine` without sharding: every process holds all weights and the whole optimizer state."""

    def __init__(self, model: nn.Module, recipe: Recipe, *, by_part: bool) -> None:
        self._max_grad_norm = recipe.optimizer.max_grad_norm
        self._module = model
        self.model = nn.parallel.DistributedDataParallel(model) if _several_processes() else model
        self._optimizer = build_optimizer(model, recipe.optimizer, by_part=by_part)

    def step(self, loss: Tensor, learning_rate: float, unused: Collection[str] = ()) -> float:
        """See `Engine`."""
        self._optimizer.zero_grad()
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self._module.parameters(), self._max_grad_norm))
        prepare_step(self._optimizer, learning_rate, unused)
        if math.isfinite(norm):
            self._optimizer.step()
        return norm

    def optimizer_state(self) -> Any:
        """See `Engine`."""
        return updated_states(self._optimizer.state_dict()["state"])

    def weights(self) -> dict[str, Tensor]:
        """See `Engine`."""
        return dict(self._module.state_dict())

    def save(self, folder: Path) -> None:
        """See `Engine`; only rank zero writes, as all ranks hold the same state."""
        if not _several_processes() or distributed.get_rank() == 0:
            state = {"module": self._module.state_dict(), "optimizer": self._optimizer.state_dict()}
            torch.save(state, folder / _FILE)

    def load(self, folder: Path) -> None:
        """See `Engine`."""
        state = load_data(folder / _FILE)
        self._module.load_state_dict(state["module"])
        self._optimizer.load_state_dict(state["optimizer"])


def _several_processes() -> bool:
    return distributed.is_initialized() and distributed.get_world_size() > 1
