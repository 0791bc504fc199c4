"""Many transfers at once."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

__all__ = ["WORKERS", "map_parallel"]

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

    The first exception is raised, and what was not begun by then is not begun any more.

    Args:
        function: Called from several threads at once.
        items: What to call it on.
        workers: Number of threads.
        on_done: Called in the calling thread, with the number of finished items, after each.
    """
    executor = ThreadPoolExecutor(workers, thread_name_prefix="transfer")
    try:
        futures = [executor.submit(function, item) for item in items]
        for count, future in enumerate(as_completed(futures), start=1):
            future.result()
            if on_done is not None:
                on_done(count)
        return [future.result() for future in futures]
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
