"""Forming of a group of processes within a time limit; the error names those that did not join."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator

from llava_av.processes.heartbeat import JOIN_LIMIT_VARIABLE, Limits
from llava_av.processes.stalls import end_process, group_store

__all__ = ["joining"]


@contextlib.contextmanager
def joining(limits: Limits) -> Iterator[None]:
    """Form the group of the processes that torchrun started in a block; end this one if any does not join."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    formed = threading.Event()
    if size > 1:
        threading.Thread(target=_wait_for_all, args=(formed, limits.join_s, size), daemon=True).start()
    try:
        yield
    finally:
        formed.set()


def _wait_for_all(formed: threading.Event, limit_s: float, size: int) -> None:
    deadline = time.monotonic() + limit_s
    keys = [f"joining/{rank}" for rank in range(size)]
    problem = "the store of the group's first node does not answer"
    with contextlib.suppress(RuntimeError):
        store = group_store(limit_s)
        store.set(keys[int(os.environ["RANK"])], "started")
        if formed.wait(max(0.0, deadline - time.monotonic())):
            return
        absent = [f"rank {rank}" for rank, key in enumerate(keys) if not store.check([key])]
        problem = f"{', '.join(absent)} of {size} did not start" if absent else "the ranks did not connect"
    if not formed.is_set():
        end_process(
            f"{problem} within {limit_s:g} s, while rank {os.environ['RANK']} on host {socket.gethostname()} "
            "waited: check the log and the network of its node, and run again "
            f"({JOIN_LIMIT_VARIABLE} sets the limit)",
            (),
            0.0,
        )
