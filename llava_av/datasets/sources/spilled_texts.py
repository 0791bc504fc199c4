"""Texts of rows or files by number, which are not kept in memory, and their order."""

from __future__ import annotations

import heapq
import operator
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from llava_av.datasets.spilled import SpilledBytes, adjacent_runs

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["SpilledTexts", "sorted_numbers"]

_SORTED_AT_ONCE, _READ_AT_ONCE = 65_536, 1024
# A byte that UTF-8 does not have.
_END = b"\xff"

_Key = TypeVar("_Key", str, bytes)


class SpilledTexts:
    """Texts in UTF-8 that are appended and then read by number; each takes 8 bytes of memory."""

    def __init__(self) -> None:
        self._text, self._ends = SpilledBytes(), array("q")

    def __len__(self) -> int:
        return len(self._ends)

    def append(self, texts: Sequence[str]) -> None:
        """Append texts; errors as for `SpilledBytes`."""
        encoded = [text.encode() + _END for text in texts]
        self._ends.extend(list(accumulate(map(len, encoded), initial=self._text.size))[1:])
        self._text.append(b"".join(encoded))

    def read(self, numbers: npt.NDArray[np.integer]) -> list[bytes]:
        """Return the texts with some numbers; adjacent ones are read at once."""
        found: list[bytes] = []
        for first, last in zip(*(ends.tolist() for ends in adjacent_runs(numbers)), strict=True):
            content = self._text.read(self._ends[first - 1] if first else 0, self._ends[last] - 1)
            found += content.split(_END)
        return found

    def each(self, numbers: npt.NDArray[np.integer]) -> Iterator[str]:
        """Yield the texts with some numbers; few are read at a time."""
        for start in range(0, len(numbers), _READ_AT_ONCE):
            yield from map(bytes.decode, self.read(numbers[start : start + _READ_AT_ONCE]))


def sorted_numbers(
    count: int, keys: Callable[[npt.NDArray[np.int32]], list[_Key]]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Sort the numbers from 0 to `count` - 1 by keys, a part of which is in memory at a time.

    Args:
        count: Number of keys.
        keys: Returns the keys of some numbers.

    Returns:
        The numbers in the order of their keys, equal ones in their own order, and for each whether its key is
        not that of the previous number.
    """
    if count <= _SORTED_AT_ONCE:
        own_keys = keys(np.arange(count, dtype=np.int32))
        own_order = sorted(range(count), key=own_keys.__getitem__)
        in_order: list[_Key | None] = [own_keys[number] for number in own_order]
        is_new_key = map(operator.ne, in_order, [None, *in_order])
        return np.array(own_order, np.int32), np.fromiter(is_new_key, np.bool_, count)
    parts = []
    for start in range(0, count, _SORTED_AT_ONCE):
        own = np.arange(start, min(start + _SORTED_AT_ONCE, count), dtype=np.int32)
        parts.append(own[sorted(range(len(own)), key=keys(own).__getitem__)])

    def read(part: npt.NDArray[np.int32]) -> Iterator[tuple[_Key, int]]:
        for start in range(0, len(part), _READ_AT_ONCE):
            own = part[start : start + _READ_AT_ONCE]
            yield from zip(keys(own), own.tolist(), strict=True)

    order, is_new = np.empty(count, np.int32), np.empty(count, np.bool_)
    merged, start = heapq.merge(*map(read, parts)), 0
    last: _Key | None = None
    while batch := list(islice(merged, _READ_AT_ONCE)):
        found: list[_Key] = [key for key, _ in batch]
        end = start + len(batch)
        order[start:end] = [number for _, number in batch]
        is_new[start:end] = list(map(operator.ne, found, [last, *found]))
        start, last = end, found[-1]
    return order, is_new
