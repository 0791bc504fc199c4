"""Host memory of a process that trains on the CPU.

Each step allocates and frees the same tensors. By default, glibc returns freed memory to the kernel, which
clears the pages again in the next step: thousands of page faults per step, and a twentieth of its time.
"""

import ctypes

from llava_av.processes.allocator import MMAP_THRESHOLD, TRIM_THRESHOLD

__all__ = ["keep_freed_memory", "return_freed_memory"]

_KEPT_BYTES = 2**30
_LARGEST_KEPT_BYTES = 2**25
"""Size up to which a tensor is allocated from memory that is kept; glibc allows no larger one."""


def keep_freed_memory() -> None:
    """Make the allocator keep freed memory for later allocations; only glibc has this setting."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
        mallopt(TRIM_THRESHOLD, _KEPT_BYTES)


def return_freed_memory() -> None:
    """Return freed memory to the kernel once, so that other processes can use it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
