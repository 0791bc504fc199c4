"""Rows of a folder's media files, sorted by their paths in a commit and computed when they are read."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, overload

import numpy as np

from llava_av.datasets.manifest import safe_path
from llava_av.datasets.ranges import FileRow

if TYPE_CHECKING:
    import numpy.typing as npt

    from llava_av.datasets.sources.checked_files import CheckedFiles
    from llava_av.datasets.sources.name_table import NameTable

__all__ = ["FileRows"]

_SORTED_AT_ONCE = 65_536
_READ_AT_ONCE = 1024


class FileRows(Sequence[FileRow]):
    """Rows of media files.

    Args:
        files: Results of their checks.
        numbers: Numbers of their paths, all of which can be stored.
    """

    def __init__(self, files: CheckedFiles, numbers: npt.NDArray[np.int32]) -> None:
        self._files, self._numbers = files, _sorted(files.names, numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, place: int) -> FileRow: ...

    @overload
    def __getitem__(self, place: slice) -> list[FileRow]: ...

    def __getitem__(self, place: int | slice) -> FileRow | list[FileRow]:
        if not isinstance(place, slice):
            return self[place : place + 1][0]
        names, digests, sizes = self._files.columns(self._numbers[place])
        return list(map(FileRow, map(safe_path, names), digests, sizes))

    def __iter__(self) -> Iterator[FileRow]:
        for start in range(0, len(self), _READ_AT_ONCE):
            yield from self[start : start + _READ_AT_ONCE]


def _sorted(names: NameTable, numbers: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Return numbers in the order of their paths in a commit; of equal paths, only the last one."""
    parts = []
    for start in range(0, len(numbers), _SORTED_AT_ONCE):
        own = numbers[start : start + _SORTED_AT_ONCE]
        paths = list(map(safe_path, names.texts(own)))
        parts.append(own[sorted(range(len(own)), key=paths.__getitem__)])
    found = np.empty(len(numbers), np.int32)
    count, last = 0, None
    for path, number in heapq.merge(*(_paths(names, part) for part in parts)):
        count += path != last
        found[count - 1], last = number, path
    return found[:count]


def _paths(names: NameTable, numbers: npt.NDArray[np.int32]) -> Iterator[tuple[str, int]]:
    """Yield the path in a commit of each number, with the number."""
    return zip(map(safe_path, names.each(numbers)), numbers.tolist(), strict=True)
