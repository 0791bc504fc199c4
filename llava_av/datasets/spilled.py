"""Bytes that are appended and read again; a large amount is in a temporary file instead of memory."""

from __future__ import annotations

import os
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from llava_av.storage.store_errors import local_files

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["SpilledBytes", "adjacent_runs"]

_IN_MEMORY, _WRITTEN_AT_ONCE = 8 << 20, 1 << 20


class SpilledBytes:
    """Bytes of which only the most recent are in memory; threads may read them while none appends."""

    def __init__(self) -> None:
        self.size = 0
        self._recent = bytearray()
        self._file: int | None = None
        self._written = 0

    def append(self, content: bytes) -> None:
        """Append bytes.

        Raises:
            StoreError: The local disk cannot be used.
        """
        self._recent += content
        self.size += len(content)
        if len(self._recent) > (_IN_MEMORY if self._file is None else _WRITTEN_AT_ONCE):
            # The error of a full disk names the folder of this path.
            with local_files(Path(tempfile.gettempdir()) / "llava-av"):
                self._flush()

    def _flush(self) -> None:
        if self._file is None:
            self._file, name = tempfile.mkstemp(prefix="llava-av-")
            os.unlink(name)
            weakref.finalize(self, os.close, self._file)
        rest = memoryview(self._recent)
        while rest:
            rest = rest[os.write(self._file, rest) :]
        self._written = self.size
        self._recent = bytearray()

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` up to, but not including, `end`.

        Raises:
            OSError: The temporary file cannot be read.
        """
        if start >= self._written:
            return bytes(self._recent[start - self._written : end - self._written])
        assert self._file is not None
        head = os.pread(self._file, min(end, self._written) - start, start)
        return head if end <= self._written else head + bytes(self._recent[: end - self._written])


def adjacent_runs(
    numbers: npt.NDArray[np.integer],
) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]]:
    """Return the first and the last number of each run of adjacent numbers, which is read at once."""
    import numpy as np

    if not len(numbers):
        return numbers, numbers
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    return numbers[np.concatenate([[0], breaks])], numbers[np.concatenate([breaks - 1, [-1]])]
