"""Weight norm as a module of its own, which ZeRO-3 can partition."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

__all__ = ["WeightNormConvolution", "own_weight_norm"]


class WeightNormConvolution(nn.Module):
    """A convolution over time whose kernel is a direction and a magnitude (arXiv 1602.07868).

    The same numbers as `torch.nn.utils.parametrizations.weight_norm`. There the kernel is computed by a
    module below the convolution and read as its attribute, for which ZeRO-3 does not gather parameters; here
    all of them belong to the module that is called.
    """

    def __init__(self, convolution: nn.Conv1d) -> None:
        super().__init__()
        originals: Any = convolution.parametrizations["weight"]  # type: ignore[index]
        # in the order of what they replace: sums over a model's parameters stay the same bit for bit
        self.bias = convolution.bias
        self.magnitude = nn.Parameter(originals.original0.detach())
        self.direction = nn.Parameter(originals.original1.detach())
        self.dim: int = originals[0].dim
        self.in_channels = convolution.in_channels
        self.kernel_size = convolution.kernel_size
        self._geometry: dict[str, Any] = {
            name: getattr(convolution, name) for name in ("stride", "padding", "dilation", "groups")
        }

    @property
    def weight(self) -> Tensor:
        """The kernel; also what the tower's initialisation asks for."""
        return torch._weight_norm(self.direction, self.magnitude, self.dim)

    def forward(self, features: Tensor) -> Tensor:
        """`[n, in, time]` to `[n, out, time']`."""
        return nn.functional.conv1d(features, self.weight, self.bias, **self._geometry)


def own_weight_norm(model: nn.Module) -> None:
    """Replaces every weight-normed convolution over time in a model, keeping its parameters' values."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv1d) and parametrize.is_parametrized(child, "weight"):
                own = WeightNormConvolution(child)
                # transformers would draw its values anew
                own._is_hf_initialized = True  # type: ignore[assignment]
                setattr(parent, name, own)
