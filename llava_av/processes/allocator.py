"""Memory of a process whose threads allocate and free large blocks, such as the bodies of requests.

By default, glibc gives each thread memory of its own and keeps much of what is freed: 60 MB in a commit.
"""

import ctypes

__all__ = ["MMAP_THRESHOLD", "TRIM_THRESHOLD", "return_large_blocks"]

# Parameters of mallopt (3).
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""Each of these also ends glibc's own adjustment of both thresholds."""
_ARENA_MAX = -8
_SMALLEST_RETURNED_BYTES = 2**20
_KEPT_BYTES = 2**22
"""Free memory at the end of the heap that is kept, because it is soon allocated again."""
_ARENAS = 2


def return_large_blocks() -> None:
    """Return large blocks to the kernel when they are freed; only glibc has this setting."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, _SMALLEST_RETURNED_BYTES)
        mallopt(TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_ARENA_MAX, _ARENAS)
