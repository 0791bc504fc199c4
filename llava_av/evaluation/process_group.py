"""The processes that evaluate together, if there are several."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import distributed

from llava_av.processes.heartbeat import COLLECTIVE_LIMIT

__all__ = ["Group", "joined_group"]

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class Group:
    """This process among those that torchrun started."""

    rank: int
    local_rank: int
    """Among those of this node."""
    size: int

    @property
    def first(self) -> bool:
        """Whether this process speaks for all."""
        return self.rank == 0

    def wait(self) -> None:
        """Returns when every process has called it."""
        if self.size > 1:
            distributed.barrier()

    def one_of_node_first(self, fetch: Callable[[], _Result]) -> _Result:
        """`fetch`, by the first process of each node alone and then by the others, who find its files."""
        if self.local_rank == 0:
            result = fetch()
            self.wait()
            return result
        self.wait()
        return fetch()

    def leave(self) -> None:
        """Ends the group, when every process is done."""
        if self.size > 1:
            distributed.destroy_process_group()


def joined_group() -> Group:
    """The group of the variables that torchrun sets; a process that it did not start is alone."""
    group = Group(
        rank=int(os.environ.get("RANK", "0")),
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        size=int(os.environ.get("WORLD_SIZE", "1")),
    )
    if group.size > 1:
        # Only waiting goes through it: what is computed is exchanged through the object store.
        distributed.init_process_group("gloo", timeout=COLLECTIVE_LIMIT)
    return group
