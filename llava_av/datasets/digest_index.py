"""Index of digests that takes 44 bytes for each; a dictionary takes about 250."""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["DigestIndex"]

_BYTES = 32
_COMPARED_AT_ONCE = 65_536


class DigestIndex:
    """SHA-256 digests in the order in which they were added; equal ones may be added again."""

    def __init__(self) -> None:
        self._digests = bytearray()
        # Beginnings of the digests in their order, and the place of each.
        self._sorted = array("Q"), array("i")
        self._sorting = threading.Lock()

    def __len__(self) -> int:
        return len(self._digests) // _BYTES

    def __getitem__(self, place: int) -> str:
        return self._bytes(place).hex()

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))

    def add(self, digests: Iterable[str]) -> None:
        """Add digests of 64 hex digits.

        Raises:
            ValueError: One has another form.
        """
        size = len(self._digests)
        try:
            for one in digests:
                digest = bytes.fromhex(one)
                if len(digest) != _BYTES:
                    raise ValueError("a digest does not have 64 hexadecimal digits")
                self._digests += digest
        except ValueError:
            del self._digests[size:]
            raise

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
        """Return the digests at some places."""
        import numpy as np

        digits = np.frombuffer(self._digests, f"V{_BYTES}")[places].tobytes().hex()
        return [digits[start : start + 2 * _BYTES] for start in range(0, len(digits), 2 * _BYTES)]

    def ranks(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Return the rank of each digest among the distinct ones, and the first place of each rank."""
        import numpy as np

        starts, order = (np.frombuffer(one, f"{one.typecode}") for one in self._in_order())
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
        return bytes(self._digests[place * _BYTES : (place + 1) * _BYTES])

    def _in_order(self) -> tuple[array[int], array[int]]:
        with self._sorting:
            if len(self._sorted[0]) != len(self):
                self._sort()
        return self._sorted

    def _sort(self) -> None:
        # numpy takes a tenth of a second to load, and an unchanged folder does not need it.
        import numpy as np

        digests = self._words()
        starts = digests[:, 0].astype(np.uint64)
        order = np.argsort(starts, kind="stable").astype(np.int32)
        starts = starts[order]
        if self._differ(order, np.flatnonzero(starts[1:] == starts[:-1])).any():
            order = np.lexsort(digests.T[::-1]).astype(np.int32)
        self._sorted = array("Q"), array("i")
        self._sorted[0].frombytes(starts.data.cast("B"))
        self._sorted[1].frombytes(order.data.cast("B"))

    def _differ(self, order: npt.NDArray[np.int32], places: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Check whether the digests at some places of an order are not those at the next places."""
        import numpy as np

        digests, found = self._words(), np.zeros(len(places), np.bool_)
        for first in range(0, len(places), _COMPARED_AT_ONCE):
            own = places[first : first + _COMPARED_AT_ONCE]
            found[first : first + len(own)] = (digests[order[own]] != digests[order[own + 1]]).any(axis=1)
        return found

    def _words(self) -> npt.NDArray[np.uint64]:
        import numpy as np

        return np.frombuffer(self._digests, ">u8").reshape(-1, _BYTES // 8)
