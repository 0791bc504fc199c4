"""Index of digests that takes 44 bytes for each; a dictionary takes about 250."""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator

__all__ = ["DigestIndex"]

_BYTES = 32


class DigestIndex:
    """SHA-256 digests in the order in which they were added; equal ones may be added again."""

    def __init__(self) -> None:
        self._digests = bytearray()
        # Beginnings of the digests in their order, and the place of each; replaced at once for other threads.
        self._sorted = array("Q"), array("i")

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

    def take(self, places: Iterable[int]) -> "DigestIndex":
        """Return the index of the digests at some places."""
        found = DigestIndex()
        found._digests += b"".join(map(self._bytes, places))
        return found

    def places(self, sha256: str) -> list[int]:
        """Return the places that have a digest, in their order."""
        if len(self._sorted[0]) != len(self):
            self._sort()
        starts, order = self._sorted
        wanted = bytes.fromhex(sha256)
        start = int.from_bytes(wanted[:8])
        number, found = bisect_left(starts, start), []
        while number < len(starts) and starts[number] == start:
            if self._bytes(order[number]) == wanted:
                found.append(order[number])
            number += 1
        return found

    def firsts(self) -> bytearray:
        """Return for each place 1 if no earlier one has the same digest, or else 0."""
        import numpy as np

        found = bytearray(len(self))
        digests = np.frombuffer(bytes(self._digests), f"V{_BYTES}")
        np.frombuffer(found, np.uint8)[np.unique(digests, return_index=True)[1]] = 1
        return found

    def _bytes(self, place: int) -> bytes:
        return bytes(self._digests[place * _BYTES : (place + 1) * _BYTES])

    def _sort(self) -> None:
        # numpy takes a tenth of a second to load, and an unchanged folder does not need it.
        import numpy as np

        starts = np.frombuffer(bytes(self._digests), ">u8")[:: _BYTES // 8].astype(np.uint64)
        order = np.argsort(starts, kind="stable")
        places = order.astype(np.int32)
        self._sorted = array("Q", starts[order].tobytes()), array("i", places.tobytes())
