"""Parallel transfers, and the digest by which a receiver verifies a file."""

import hashlib
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

__all__ = ["WORKERS", "file_sha256", "map_parallel"]

WORKERS = 8
_REPORT_S = 0.1

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def map_parallel(
    function: Callable[[_Item], _Result],
    items: Iterable[_Item],
    *,
    workers: int = WORKERS,
    on_done: Callable[[int], None] | None = None,
) -> list[_Result]:
    """Call `function` on each item in threads and return the results in the order of the items.

    After the first exception no further item is started, and the exception is raised.

    Args:
        function: Function that several threads may call at the same time.
        items: Its arguments.
        workers: Number of threads.
        on_done: Called in the calling thread with 1, 2, 3, … finished items, soon after each is finished.
    """
    calls = _Calls(function, list(items))
    threads = [
        threading.Thread(target=calls.run, name=f"transfer-{number}")
        for number in range(min(workers, len(calls.items)))
    ]
    reported, ended = 0, not threads
    try:
        for thread in threads:
            thread.start()
        while not ended:
            ended = calls.wait(None if on_done is None else _REPORT_S)
            finished = len(calls.results)
            if on_done is not None:
                for count in range(reported + 1, finished + 1):
                    on_done(count)
            reported = finished
    finally:
        calls.stop.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
    if calls.errors:
        raise calls.errors[min(calls.errors)]
    return [calls.results[number] for number in range(len(calls.items))]


class _Calls(Generic[_Item, _Result]):
    """Calls of one function, which threads share; a future for each would cost more than a short call."""

    def __init__(self, function: Callable[[_Item], _Result], items: list[_Item]) -> None:
        self.items = items
        self.results: dict[int, _Result] = {}
        self.errors: dict[int, BaseException] = {}
        self.stop = threading.Event()
        self._function = function
        # Taking the next number is atomic.
        self._numbers = iter(range(len(items)))
        self._end = threading.Event()

    def wait(self, timeout_s: float | None) -> bool:
        """Wait until all calls have returned or one has failed; return False after the timeout."""
        return self._end.wait(timeout_s)

    def run(self) -> None:
        """Call the function on items until none is left."""
        try:
            for number in self._numbers:
                if self.stop.is_set():
                    return
                try:
                    self.results[number] = self._function(self.items[number])
                except BaseException as error:
                    self.errors[number] = error
                    self.stop.set()
                    return
        finally:
            if self.errors or len(self.results) == len(self.items):
                self._end.set()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content as 64 hex digits.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
