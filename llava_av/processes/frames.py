"""Memory for the frames of calls.

CPython (3.11 and later) takes this memory from the kernel in blocks of 16 KiB, and returns a block when its
first frame ends. A loop whose calls cross the end of a block takes and returns one for each call: a tenth of
the CPU time of a commit. A frame that does not fit gets a larger block, whose rest serves the calls below it.
"""

from collections.abc import Callable
from typing import TypeVar

__all__ = ["call_with_frame_memory"]

_Result = TypeVar("_Result")
# In words of 8 bytes; the size of a block is the next power of two, here 128 KiB.
_STACK_WORDS = 8200


def call_with_frame_memory(call: Callable[[], _Result]) -> _Result:
    """Call a function with memory for about 150 nested calls."""
    return call()


call_with_frame_memory.__code__ = call_with_frame_memory.__code__.replace(co_stacksize=_STACK_WORDS)
