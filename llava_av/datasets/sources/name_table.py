"""Paths of media files by number; there may be millions.

A path takes 16 bytes of memory while paths are added, 20 with the index, and 8 without it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from llava_av.datasets.sources.spilled_texts import SpilledTexts

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["NameTable"]

_RECENT = 16_384


class NameTable:
    """Paths that are all added before any is looked for by its text."""

    def __init__(self) -> None:
        self._texts, self._hashes = SpilledTexts(), array("q")
        self._recent: dict[str, int] = {}
        self._sorted: tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]] | None = None

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, names: Iterable[str]) -> list[int]:
        """Add paths and return their numbers; one last added long ago gets a new number (see `firsts`)."""
        assert len(self._hashes) == len(self)
        recent = self._recent
        if len(recent) > _RECENT:
            recent.clear()
        before = len(recent)
        start = len(self) - before
        numbers = [recent.setdefault(name, start + len(recent)) for name in names]
        new = list(islice(reversed(recent), len(recent) - before))[::-1]
        self._hashes.extend(map(hash, new))
        self._texts.append(new)
        return numbers

    def __getitem__(self, number: int) -> str:
        return self.texts(np.array([number]))[0]

    def texts(self, numbers: npt.NDArray[np.integer]) -> list[str]:
        """Return the paths with some numbers; adjacent ones are read at once."""
        return list(map(bytes.decode, self._texts.read(numbers)))

    def each(self, numbers: npt.NDArray[np.integer]) -> Iterator[str]:
        """Return an iterator over the paths with some numbers, few of which are read at a time."""
        return self._texts.each(numbers)

    def numbers(self, names: Sequence[str]) -> npt.NDArray[np.int32]:
        """Return the first number of each path; -1 for one that is not here."""
        if not len(self):
            return np.full(len(names), -1, np.int32)
        hashes, order = self._index()
        wanted = np.fromiter(map(hash, names), np.int64, len(names))
        places = np.minimum(np.searchsorted(hashes, wanted), len(self) - 1)
        found = np.where(hashes[places] == wanted, order[places], -1).astype(np.int32)
        here = np.flatnonzero(found >= 0)
        for name, text in zip(here.tolist(), self.texts(found[here]), strict=True):
            if text != names[name]:
                found[name] = self._with_equal_hash(names[name], int(places[name]))
        return found

    def _with_equal_hash(self, name: str, place: int) -> int:
        hashes, order = self._index()
        while place < len(hashes) and hashes[place] == hash(name):
            if self[order[place]] == name:
                return int(order[place])
            place += 1
        return -1

    def firsts(self) -> npt.NDArray[np.int32]:
        """Return for each number the first one with the same path."""
        hashes, order = self._index()
        found = np.arange(len(self), dtype=np.int32)
        last, known = -2, dict[str, int]()
        for place in np.flatnonzero(hashes[1:] == hashes[:-1]).tolist():
            if place != last + 1:
                known = {self[order[place]]: int(order[place])}
            number, last = int(order[place + 1]), place
            found[number] = known.setdefault(self[number], number)
        return found

    def release_index(self) -> None:
        """Free the memory of the index, which `numbers` and `firsts` build again."""
        self._sorted = None

    def _index(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """Return the hashes in their order, and the number of each."""
        if self._sorted is None:
            if len(self._hashes) == len(self):
                hashes = np.frombuffer(self._hashes, np.int64)
            else:
                hashes = np.fromiter(map(hash, self.each(np.arange(len(self)))), np.int64, len(self))
            order = np.argsort(hashes, kind="stable").astype(np.int32)
            self._sorted = hashes[order], order
            self._hashes, self._recent = array("q"), {}
        return self._sorted
