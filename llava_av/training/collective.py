"""What the processes of a training job compute together."""

import torch
from torch import Tensor, distributed

__all__ = ["sum_over_all"]


def sum_over_all(values: Tensor) -> Tensor:
    """Return the sum over processes, on the CPU; called by all together."""
    if torch.cuda.is_available():
        values = values.cuda()
    distributed.all_reduce(values)
    return values.cpu()
