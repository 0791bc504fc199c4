"""Interface of an engine, and the error for an engine that cannot run."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

from llava_av.errors import UserError
from llava_av.training.collective import CpuGroup

__all__ = [
    "MOMENTS",
    "Engine",
    "EngineError",
    "Fragment",
    "FrozenFragment",
    "compute_dtype",
    "equalize_calls",
    "local_part",
    "named_state",
    "own_share",
    "persistent_buffers",
]

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Tensors of AdamW's state, each with the shape of the parameter."""


class EngineError(UserError):
    """An engine that cannot run on this machine, or that cannot load a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Fragment:
    """Flat range of a trained parameter that this process updates; its tensors are views of the state."""

    name: str
    """Name of the parameter in the model."""
    start: int
    """First element of the range in the flattened parameter."""
    weight: Tensor
    """Float32 weights, in one dimension."""
    moments: Mapping[str, Tensor]
    """`MOMENTS` of the same shape; empty before the first update."""
    updates: Tensor | None
    """Number of updates, as one element; None before the first update."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Return weight and moments by kind."""
        return {"weight": self.weight, **self.moments}


@dataclass(frozen=True, kw_only=True)
class FrozenFragment:
    """Flat range of a parameter that is not trained; each element is in the range of one process."""

    name: str
    start: int
    """First element of the range in the flattened parameter."""
    values: Tensor
    """Elements of the range, in one dimension."""


class Engine(Protocol):
    """Backward pass, update and state of a model; all processes call every method together."""

    model: nn.Module
    """Module to call for the forward pass."""

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Run the backward pass of a micro-batch; gradients add up until `step`.

        Args:
            loss: Loss of this process in this micro-batch.
            last: True for the last micro-batch of the step.
        """
        ...

    def step(self, learning_rate: float, unused: Collection[str] = ()) -> Tensor:
        """Update the weights with the clipped mean gradient over processes.

        Args:
            learning_rate: Learning rate of this step.
            unused: Parts of the model (`llava_av.model.parts`) that computed nothing in any process: they and
                their optimizer state stay as they are.

        Returns:
            Norm of the gradient before clipping, one element on any device. If it is not finite, nothing is
            updated.
        """
        ...

    def weights(self, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """Return the model's whole state by name in rank zero; other ranks may return less.

        Args:
            names: Names to return; None for all.
        """
        ...

    def fragments(self) -> Iterator[Fragment]:
        """Yield the ranges of trained parameters that this process updates; none is empty."""
        ...

    def frozen(self) -> Iterator[FrozenFragment]:
        """Yield this process's ranges of the parameters that are not trained."""
        ...

    def buffers(self) -> dict[str, Tensor]:
        """Return the model's buffers that are part of its state; every process has all."""
        ...

    def begin_load(self, updates: Mapping[str, float]) -> None:
        """Create the optimizer state that `fragments` then yields, to be filled.

        Args:
            updates: Number of updates of each trained parameter.
        """
        ...

    def finish_load(self) -> None:
        """Compute with the weights that have been written into the fragments."""
        ...

    def close(self) -> None:
        """Release what keeps the model in memory, so that another engine can be built; the last call."""
        ...


def compute_dtype(precision: str) -> torch.dtype:
    """Return the type that a model computes with, for `training.precision`."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


def equalize_calls(model: nn.Module) -> CpuGroup:
    """Make all processes call each module of the model equally often, as sharded weights need.

    A process gathers the weights of a module when it calls it, together with all other processes.

    Returns:
        Group in which they agree, to be closed with the engine.
    """
    group = CpuGroup()
    for module in model.modules():
        if hasattr(module, "equal_calls"):
            vars(module)["equal_calls"] = group.largest
    return group


def local_part(tensor: Tensor) -> Tensor:
    """Return this process's shard of a sharded tensor, and any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def own_share(name: str, parameter: Tensor) -> FrozenFragment:
    """Return this process's share of a parameter of which every process has the whole."""
    share = -(-parameter.numel() // distributed.get_world_size())
    start = min(distributed.get_rank() * share, parameter.numel())
    return FrozenFragment(name=name, start=start, values=parameter.detach().reshape(-1)[start:][:share])


def named_state(model: nn.Module, names: Collection[str] | None) -> Iterator[tuple[str, str, Tensor]]:
    """Yield name, first name and tensor of each weight and buffer in a model's state.

    Tied weights are one tensor with several names; transformers saves it under one of them.

    Args:
        model: The model.
        names: Names to yield; None for all.
    """
    first_names: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if names is None or name in names:
            yield name, first_names.setdefault(id(tensor), name), tensor


def persistent_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return the buffers in a model's state."""
    state = model.state_dict(keep_vars=True)
    return {name: one for name, one in state.items() if not isinstance(one, nn.Parameter)}
