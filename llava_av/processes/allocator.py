"""Memory of a process whose threads allocate and free large blocks, such as the bodies of requests.

By default, glibc gives each thread memory of its own and keeps much of what is freed: 60 MB in a commit.
"""

import ctypes

__all__ = ["return_large_blocks"]

# Parameters of mallopt (3); the first also ends glibc's own adjustment of the two thresholds.
_MMAP_THRESHOLD, _TRIM_THRESHOLD, _ARENA_MAX = -3, -1, -8
_SMALLEST_RETURNED_BYTES = 2**20
_KEPT_BYTES = 2**22
_ARENAS = 2


def return_large_blocks() -> None:
    """Return large blocks to the kernel when they are freed; only glibc has this setting."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _SMALLEST_RETURNED_BYTES)
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_ARENA_MAX, _ARENAS)
