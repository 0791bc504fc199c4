"""Threads that write the files of a request."""

import asyncio
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

__all__ = ["finish_in_thread"]

_Arguments = TypeVarTuple("_Arguments")
_Result = TypeVar("_Result")


async def finish_in_thread(work: Callable[[*_Arguments], _Result], *arguments: *_Arguments) -> _Result:
    """Return the result of a function that runs in a thread; a cancelled caller waits for its end.

    The caller can then delete the folder of its files, without a file that appears in it afterwards.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
