"""Weight norm as a module whose parameters ZeRO-3 can partition."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class WeightNormConvolution(nn.Module):
    """Convolution over time whose kernel is a direction times a magnitude (arXiv 1602.07868).

    Computes what `torch.nn.utils.parametrizations.weight_norm` computes. There a child module of the
    convolution computes the kernel, and ZeRO-3 does not gather a child's parameters when the kernel is read;
    here all parameters belong to the module that is called.
    """

    def __init__(self, convolution: nn.Conv1d) -> None:
        super().__init__()
        originals: Any = convolution.parametrizations["weight"]  # type: ignore[index]
        # keep the order of the replaced parameters, so that sums over all parameters stay equal bit for bit
        self.bias = convolution.bias
        self.magnitude = nn.Parameter(originals.original0.detach())
        self.direction = nn.Parameter(originals.original1.detach())
        self.dim: int = originals[0].dim
        self.in_channels = convolution.in_channels
        self.kernel_size = convolution.kernel_size
        self.stride, self.padding = convolution.stride, convolution.padding
        self.dilation, self.groups = convolution.dilation, convolution.groups

    @property
    def weight(self) -> Tensor:
        """Kernel, which the tower's initialisation reads, too."""
        return torch._weight_norm(self.direction, self.magnitude, self.dim)

    def forward(self, features: Tensor) -> Tensor:
        """Convolve `[n, in, time]` to `[n, out, time']`."""
        return nn.functional.conv1d(
            features, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


def replace_weight_norm(model: nn.Module) -> None:
    """Replace every weight-normed convolution over time in a model, keeping the values of its parameters."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv1d) and parametrize.is_parametrized(child, "weight"):
                replacement = WeightNormConvolution(child)
                # otherwise transformers would initialise its values again
                replacement._is_hf_initialized = True  # type: ignore[assignment]
                setattr(parent, name, replacement)
