"""Calls of a function on many files, in threads only where these save time.

Threads with short calls mostly wait for Python's global interpreter lock, and take more CPU time without
being faster. Short calls therefore run in the calling thread, unless they wait for something else, such as a
network file system.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

__all__ = ["ordered_calls"]

_WORKERS, _WAITING_WORKERS = 4, 8
# A task of a pool costs as much as the check of a file that is known.
_AT_ONCE = 8
# A waiting task takes memory.
_MOST_TASKS = 64
# Short calls move to threads when their time beyond three times their CPU time adds up to this.
_MOST_WAITED_S, _CPU_TIMES = 0.05, 3
# Tasks of short calls in threads until the next calls show whether they still wait.
_IN_THREADS = 256

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def ordered_calls(
    function: Callable[[_Item], _Result],
    items: Iterable[_Item],
    *,
    is_short: Callable[[_Item], bool] = lambda item: True,
) -> Iterator[_Result]:
    """Call a function on each item, and yield the results in the order of the items.

    Args:
        function: Function that several threads may call at the same time; it releases the GIL while it waits
            or computes for long.
        items: Its arguments.
        is_short: Returns whether the call with an item takes less than about a millisecond of CPU time.
    """

    def call(own: list[_Item]) -> list[_Result]:
        return [function(item) for item in own]

    remaining = iter(items)
    tasks: deque[Future[list[_Result]]] = deque()
    in_threads, waited_s = 0, 0.0
    pool = ThreadPoolExecutor(min(_WORKERS, os.cpu_count() or 1))
    waiting_pool = ThreadPoolExecutor(_WAITING_WORKERS)
    try:
        while own := list(islice(remaining, _AT_ONCE)):
            if not all(map(is_short, own)):
                tasks.append(pool.submit(call, own))
            elif in_threads:
                in_threads -= 1
                tasks.append(waiting_pool.submit(call, own))
            else:
                began_s, cpu_s = time.perf_counter(), time.thread_time()
                tasks.append(_finished(call, own))
                took_s, cpu_s = time.perf_counter() - began_s, time.thread_time() - cpu_s
                waited_s = max(0.0, waited_s + took_s - _CPU_TIMES * cpu_s)
                if waited_s > _MOST_WAITED_S:
                    in_threads, waited_s = _IN_THREADS, 0.0
            while tasks and (len(tasks) == _MOST_TASKS or tasks[0].done()):
                yield from tasks.popleft().result()
        while tasks:
            yield from tasks.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        waiting_pool.shutdown(cancel_futures=True)


def _finished(call: Callable[[list[_Item]], list[_Result]], items: list[_Item]) -> Future[list[_Result]]:
    """Call a function in this thread, and return its result or error like a pool."""
    future: Future[list[_Result]] = Future()
    try:
        future.set_result(call(items))
    except Exception as error:
        future.set_exception(error)
    return future
