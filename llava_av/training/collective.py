"""Collective operations of the processes of a training job."""

import torch
from torch import Tensor, distributed

__all__ = ["largest_of_processes", "sum_over_processes"]


def sum_over_processes(values: Tensor) -> Tensor:
    """Return the sum over processes, on the CPU; all processes call it together."""
    if torch.cuda.is_available():
        values = values.cuda()
    distributed.all_reduce(values)
    return values.cpu()


def largest_of_processes(count: int) -> int:
    """Return the largest of one number of each process; all processes call it together."""
    counts = torch.tensor(count, device="cuda" if torch.cuda.is_available() else "cpu")
    distributed.all_reduce(counts, distributed.ReduceOp.MAX)
    return int(counts)
