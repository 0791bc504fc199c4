"""Interface of an engine, and the error for an engine that cannot run."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from llava_av.errors import UserError
from llava_av.training.collective import largest_of_processes

__all__ = ["Engine", "EngineError", "equalize_calls", "local_part", "updated_states"]


class EngineError(UserError):
    """An engine that cannot run on this machine, or that cannot load a checkpoint."""


class Engine(Protocol):
    """Backward pass, update and state of a model; all processes call every method together."""

    model: nn.Module
    """Module to call for the forward pass."""

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Run the backward pass of a micro-batch; gradients add up until `step`.

        Args:
            loss: Loss of this process in this micro-batch.
            last: Whether it is the last micro-batch of the step.
        """
        ...

    def step(self, learning_rate: float, unused: Collection[str] = ()) -> float:
        """Update the weights with the clipped mean gradient over processes.

        Args:
            learning_rate: Learning rate of this step.
            unused: Parts of the model (`llava_av.model.parts`) that computed nothing in any process: they and
                their optimizer state stay as they are.

        Returns:
            Norm of the gradient before clipping. If it is not finite, nothing is updated.
        """
        ...

    def optimizer_state(self) -> Any:
        """Return this process's optimizer tensors and numbers, for the digest."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """Return the model's whole state by name in rank zero; other ranks may return less."""
        ...

    def save(self, folder: Path) -> None:
        """Write what `load` needs into an existing folder."""
        ...

    def load(self, folder: Path) -> None:
        """Restore weights and optimizer state."""
        ...


def updated_states(states: Mapping[int, Any]) -> dict[int, Any]:
    """Return optimizer states without empty ones, which only DeepSpeed has for weights never updated."""
    return {number: state for number, state in states.items() if state}


def equalize_calls(model: nn.Module) -> None:
    """Make all processes call each module of the model equally often, as sharded weights need.

    A process gathers the weights of a module when it calls it, together with all other processes.
    """
    for module in model.modules():
        if hasattr(module, "equal_calls"):
            vars(module)["equal_calls"] = largest_of_processes


def local_part(tensor: Tensor) -> Tensor:
    """Return this process's shard of a sharded tensor, and any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
