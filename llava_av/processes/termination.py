"""Orderly end of a job on SIGTERM: the request that its handler keeps, and the error that ends the job."""

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass

from llava_av.errors import UserError
from llava_av.processes.signals import handling_signals

__all__ = ["TERMINATED", "TerminatedError", "Termination", "deferring_sigterm"]

TERMINATED = 128 + signal.SIGTERM
"""Exit code of a process that ended in order after SIGTERM; a PyTorchJob restarts on it."""


class TerminatedError(UserError):
    """A job that ended in order after SIGTERM; its processes exit with `TERMINATED`."""


@dataclass
class Termination:
    """Request to end a group of processes in order."""

    requested: bool = False
    """True once this process got SIGTERM."""
    agreed: bool = False
    """True once all processes know that one of them got SIGTERM; set in all of them in the same step."""


@contextlib.contextmanager
def deferring_sigterm() -> Iterator[Termination]:
    """Keep SIGTERM as a request during a block, instead of ending this process."""
    termination = Termination()

    def request(*_: object) -> None:
        termination.requested = True

    with handling_signals(request, signal.SIGTERM):
        yield termination
