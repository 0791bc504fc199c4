"""Collective operations of the processes of a training job."""

import torch
from torch import Tensor, distributed

__all__ = ["sum_over_processes"]


def sum_over_processes(values: Tensor) -> Tensor:
    """Return the sum over processes, on the CPU; all processes call it together."""
    if torch.cuda.is_available():
        values = values.cuda()
    distributed.all_reduce(values)
    return values.cpu()
