"""Lifeline: a FIFO whose write end one process holds, so that readers notice when it ends for any reason.

A process cannot handle SIGKILL to inform its children, but the kernel always closes its file descriptors.
"""

import contextlib
import os
import shutil
import signal
import tempfile
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol

__all__ = ["LIFELINE_VARIABLE", "Lifeline", "call_when_lifeline_ends", "close_in_forks", "watch_lifeline"]

LIFELINE_VARIABLE = "LLAVA_AV_LIFELINE"


class Lifeline:
    """Write end of a new FIFO; when it is closed or its process ends, every process that watches it ends."""

    def __init__(self) -> None:
        """Create the FIFO in its own temporary folder."""
        self._folder = Path(tempfile.mkdtemp(prefix="llava-av-"))
        self.path = self._folder / "lifeline"
        os.mkfifo(self.path, 0o600)
        # Read and write: opening only for writing would wait for a reader.
        self._descriptor = os.open(self.path, os.O_RDWR)
        self._owner = os.getpid()
        close_in_forks(self)

    def env(self) -> dict[str, str]:
        """Return the environment variable that names this lifeline to `watch_lifeline`."""
        return {LIFELINE_VARIABLE: str(self.path)}

    def close(self) -> None:
        """End every watcher; further calls do nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
            if os.getpid() == self._owner:
                shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> "Lifeline":
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


class _Closeable(Protocol):
    def close(self) -> None: ...


def close_in_forks(resource: _Closeable) -> None:
    """Call `close` in every forked child (multiprocessing's fork method).

    A child's copy of a descriptor must not keep a resource alive after its owner has ended.
    """
    reference = weakref.ref(resource)

    def close_copy() -> None:
        alive = reference()
        if alive is not None:
            alive.close()

    os.register_at_fork(after_in_child=close_copy)


def call_when_lifeline_ends(path: str, action: Callable[[], None]) -> None:
    """Start a daemon thread that calls `action` when the lifeline at `path` has no writer."""
    threading.Thread(target=_wait_and_call, args=(path, action), name="lifeline", daemon=True).start()


def _wait_and_call(path: str, action: Callable[[], None]) -> None:
    # The owner deletes the file when it closes it: a missing file means that the owner has ended.
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(descriptor, True)
        while os.read(descriptor, 1):
            pass
        os.close(descriptor)
    action()


def watch_lifeline() -> None:
    """End this process by SIGKILL when the lifeline in its environment, if there is one, ends."""
    path = os.environ.get(LIFELINE_VARIABLE)
    if path:
        call_when_lifeline_ends(path, lambda: os.kill(os.getpid(), signal.SIGKILL))
