"""Host memory of a process that trains on the CPU.

Each step allocates and frees the same tensors. By default, glibc returns freed memory to the kernel, which
clears the pages again in the next step: thousands of page faults per step, and a twentieth of its time.
"""

import ctypes

__all__ = ["keep_freed_memory", "return_freed_memory"]

# Parameters of mallopt (3): both also end glibc's own adjustment of its thresholds.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 2**30
_LARGEST_KEPT_BYTES = 2**25
"""Size up to which a tensor is allocated from memory that is kept; glibc allows no larger one."""


def keep_freed_memory() -> None:
    """Make the allocator keep freed memory for later allocations; only glibc has this setting."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)


def return_freed_memory() -> None:
    """Return freed memory to the kernel once, so that other processes can use it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
