"""Processes of one evaluation job."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import distributed

from llava_av.processes.heartbeat import COLLECTIVE_LIMIT

__all__ = ["ProcessGroup", "joined_group"]

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class ProcessGroup:
    """Rank of this process, and collectives over all processes that torchrun started."""

    rank: int
    local_rank: int
    """Rank among the processes of this node."""
    size: int

    @property
    def is_rank_zero(self) -> bool:
        """Return whether this process is rank zero."""
        return self.rank == 0

    def wait(self) -> None:
        """Return when every process has called it."""
        if self.size > 1:
            distributed.barrier()

    def local_rank_zero_first(self, fetch: Callable[[], _Result]) -> _Result:
        """Call `fetch` in local rank zero of each node, then in the others, which reuse its files."""
        if self.local_rank == 0:
            result = fetch()
            self.wait()
            return result
        self.wait()
        return fetch()

    def gather(self, value: _Result) -> list[_Result]:
        """Return the values of all processes by rank; all processes call this together."""
        if self.size == 1:
            return [value]
        values = [value] * self.size
        distributed.all_gather_object(values, value)
        return values

    def leave(self) -> None:
        """Leave the group after every process is done."""
        if self.size > 1:
            distributed.destroy_process_group()


def joined_group() -> ProcessGroup:
    """Join the group that the variables of torchrun describe; without them, return a group of one process."""
    group = ProcessGroup(
        rank=int(os.environ.get("RANK", "0")),
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        size=int(os.environ.get("WORLD_SIZE", "1")),
    )
    if group.size > 1:
        # Used for barriers and small values; answers are exchanged through the object store.
        distributed.init_process_group("gloo", timeout=COLLECTIVE_LIMIT)
    return group
