"""Collective operations of the processes of a training job."""

from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from llava_av.processes.heartbeat import COLLECTIVE_LIMIT

__all__ = ["CpuGroup", "largest_of_processes", "sum_over_processes"]

_Value = TypeVar("_Value")


class CpuGroup:
    """All processes of the job, in a group for values of the host, whose use waits for no device.

    Only one thread uses a group: a thread besides the training has its own.
    """

    def __init__(self) -> None:
        """Create the group; all processes call this together."""
        self.group = distributed.new_group(backend="gloo", timeout=COLLECTIVE_LIMIT)

    @property
    def is_rank_zero(self) -> bool:
        """Return whether this is rank zero."""
        return distributed.get_rank() == 0

    def close(self) -> None:
        """Release the group's threads and connections, when no process uses it any longer."""
        distributed.destroy_process_group(self.group)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over processes of a tensor on the CPU; all call this together."""
        distributed.all_reduce(values, group=self.group)
        return values

    def largest(self, count: int) -> int:
        """Return the largest of one number of each process; all call this together."""
        counts = torch.tensor(count)
        distributed.all_reduce(counts, distributed.ReduceOp.MAX, group=self.group)
        return int(counts)

    def gather(self, value: _Value) -> list[_Value]:
        """Return the values of all processes by rank; all call this together."""
        every: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(every, value, group=self.group)
        return every

    def broadcast(self, value: _Value) -> _Value:
        """Return the value of rank zero; all processes call this together."""
        shared: list[Any] = [value]
        distributed.broadcast_object_list(shared, src=0, group=self.group)
        found: _Value = shared[0]
        return found


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
