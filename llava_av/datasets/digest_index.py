"""Index of digests that takes 12 bytes of memory for each; a dictionary takes about 250."""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from llava_av.datasets.spilled import SpilledBytes, adjacent_runs

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["DigestIndex"]

_BYTES = 32
_READ_AT_ONCE = 8192


class DigestIndex:
    """SHA-256 digests in the order in which they were added; equal ones may be added again."""

    def __init__(self) -> None:
        self._digests = SpilledBytes()
        # Beginnings of the digests in their order, and the place of each.
        self._sorted = array("Q"), array("i")
        self._sorting = threading.Lock()

    def __len__(self) -> int:
        return self._digests.size // _BYTES

    def __getitem__(self, place: int) -> str:
        return self._bytes(place).hex()

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))

    def add(self, digests: Iterable[str]) -> None:
        """Add digests of 64 hex digits.

        Raises:
            ValueError: One has another form; the index must not be used afterwards.
            StoreError: The local disk cannot be used.
        """
        remaining = iter(digests)
        while batch := list(islice(remaining, _READ_AT_ONCE)):
            self.add_all(batch)

    def add_all(self, digests: Sequence[str]) -> None:
        """Add all digests or, if one has another form, none; errors as for `add`."""
        content = bytes.fromhex("".join(digests))
        if set(map(len, digests)) - {2 * _BYTES} or len(content) != _BYTES * len(digests):
            raise ValueError("a digest does not have 64 hexadecimal digits")
        self._digests.append(content)

    def places(self, sha256: str) -> list[int]:
        """Return the places that have a digest, in their order."""
        starts, order = self._in_order()
        wanted = bytes.fromhex(sha256)
        start = int.from_bytes(wanted[:8])
        number, found = bisect_left(starts, start), []
        while number < len(starts) and starts[number] == start:
            if self._bytes(order[number]) == wanted:
                found.append(order[number])
            number += 1
        return found

    def at(self, places: npt.NDArray[np.integer]) -> list[str]:
        """Return the digests at some places; adjacent ones are read at once."""
        firsts, lasts = adjacent_runs(places)
        runs = zip(firsts.tolist(), lasts.tolist(), strict=True)
        digits = b"".join([self._read(first, last + 1) for first, last in runs]).hex()
        return [digits[start : start + 2 * _BYTES] for start in range(0, len(digits), 2 * _BYTES)]

    def ranks(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Return the rank of each digest among the distinct ones, and the first place of each rank."""
        import numpy as np

        starts, order = (np.frombuffer(one, one.typecode) for one in self._in_order())
        is_new = np.ones(len(self), np.bool_)
        alike = np.flatnonzero(starts[1:] == starts[:-1])
        is_new[alike + 1] = self._differ(order, alike)
        found = np.empty(len(self), np.int32)
        found[order] = np.cumsum(is_new, dtype=np.int32) - 1
        return found, order[is_new]

    def firsts(self) -> bytearray:
        """Return for each place 1 if no earlier one has the same digest, or else 0."""
        import numpy as np

        found = bytearray(len(self))
        np.frombuffer(found, np.uint8)[self.ranks()[1]] = 1
        return found

    def _bytes(self, place: int) -> bytes:
        return self._read(place, place + 1)

    def _read(self, first: int, end: int) -> bytes:
        return self._digests.read(first * _BYTES, end * _BYTES)

    def _in_order(self) -> tuple[array[int], array[int]]:
        with self._sorting:
            if len(self._sorted[0]) != len(self):
                self._sort()
        return self._sorted

    def _sort(self) -> None:
        # numpy takes a tenth of a second to load, and an unchanged folder does not need it.
        import numpy as np

        starts = np.empty(len(self), np.uint64)
        for first in range(0, len(self), _READ_AT_ONCE):
            part = self._words(first, min(first + _READ_AT_ONCE, len(self)))
            starts[first : first + len(part)] = part[:, 0]
        order = np.argsort(starts, kind="stable").astype(np.int32)
        starts = starts[order]
        if self._differ(order, np.flatnonzero(starts[1:] == starts[:-1])).any():
            # Different digests begin alike.
            order = np.lexsort(self._words(0, len(self)).T[::-1]).astype(np.int32)
        self._sorted = array("Q"), array("i")
        self._sorted[0].frombytes(starts.data.cast("B"))
        self._sorted[1].frombytes(order.data.cast("B"))

    def _words(self, first: int, end: int) -> npt.NDArray[np.uint64]:
        import numpy as np

        return np.frombuffer(self._read(first, end), ">u8").reshape(-1, _BYTES // 8)

    def _differ(self, order: npt.NDArray[np.int32], places: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Check whether the digests at some places of an order are not those at the next places."""
        import numpy as np

        pairs = zip(order[places].tolist(), order[places + 1].tolist(), strict=True)
        return np.fromiter((self._bytes(one) != self._bytes(other) for one, other in pairs), np.bool_)
