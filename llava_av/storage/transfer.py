"""Parallel transfers, and the digest by which a receiver verifies a file."""

import hashlib
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar

__all__ = ["WORKERS", "file_sha256", "map_parallel"]

WORKERS = 8

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
        on_done: Called in the calling thread with the number of finished items, after each item.
    """
    stop = threading.Event()

    def call(item: _Item) -> _Result:
        if stop.is_set():
            raise CancelledError
        try:
            return function(item)
        except BaseException:
            stop.set()
            raise

    executor = ThreadPoolExecutor(workers, thread_name_prefix="transfer")
    try:
        futures = [executor.submit(call, item) for item in items]
        for count, future in enumerate(as_completed(futures), start=1):
            if future.exception() is None and on_done is not None:
                on_done(count)
        # Raise the error itself, not the cancellations that it caused.
        failed = [future for future in futures if future.exception() is not None]
        for future in sorted(failed, key=lambda each: isinstance(each.exception(), CancelledError)):
            future.result()
        return [future.result() for future in futures]
    finally:
        stop.set()
        executor.shutdown(wait=True, cancel_futures=True)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content as 64 hex digits.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
