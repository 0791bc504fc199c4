"""Members of a group of processes, their shared store, and the end of a process whose group stalls."""

import contextlib
import faulthandler
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from torch import distributed

__all__ = ["Member", "end_process", "group_store", "this_process"]

_LOG = logging.getLogger(__name__)

# PyTorch's type stubs do not declare its stores.
_C10D: Any = distributed


@dataclass(frozen=True, kw_only=True)
class Member:
    """A process of the group."""

    rank: int
    pid: int
    host: str
    node: str
    """Number of its node; processes on one node can signal each other by PID."""

    def __str__(self) -> str:
        return f"rank {self.rank} (pid {self.pid} on host {self.host})"


def group_store(timeout_s: float) -> Any:
    """Connect to the store of the group that torchrun formed, within `timeout_s` seconds."""
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return _C10D.TCPStore(*address, is_master=False, timeout=timedelta(seconds=timeout_s))


def end_process(
    text: str, stopped: Sequence[Member], grace_s: float, save_stacks: Callable[[str], None] | None = None
) -> None:
    """Write stacks and cause to the log; kill the stopped processes of this node, then this one."""
    faulthandler.dump_traceback(sys.stderr, all_threads=True)
    _LOG.error("%s", text)
    if save_stacks is not None:
        # A thread, because an upload that hangs must not keep this process alive.
        threading.Thread(target=save_stacks, args=(f"{text}\n\n{_stacks()}",), daemon=True).start()
    # Meanwhile the other processes detect the same stall and write their stacks.
    time.sleep(grace_s)
    for member in stopped:
        here = this_process()
        if (member.node, member.host) == (here.node, here.host):
            # Torchrun would wait for it, and a stopped process handles only SIGKILL.
            with contextlib.suppress(ProcessLookupError):
                os.kill(member.pid, signal.SIGKILL)
    os._exit(1)


def _stacks() -> str:
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read().decode(errors="replace")


def this_process() -> Member:
    """Return this process as a member of its group."""
    return Member(
        rank=distributed.get_rank(),
        pid=os.getpid(),
        host=socket.gethostname(),
        node=os.environ.get("GROUP_RANK", "0"),
    )
