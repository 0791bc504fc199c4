"""Rows of a folder's media files, sorted by their paths in a commit and computed when they are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, overload

import numpy as np

from llava_av.datasets.manifest import safe_path
from llava_av.datasets.ranges import FileRow
from llava_av.datasets.sources.spilled_texts import sorted_numbers

if TYPE_CHECKING:
    import numpy.typing as npt

    from llava_av.datasets.sources.checked_files import CheckedFiles

__all__ = ["FileRows"]

_READ_AT_ONCE = 1024


class FileRows(Sequence[FileRow]):
    """Rows of media files.

    Args:
        files: Results of their checks.
        numbers: Numbers of their paths, all of which can be stored.
    """

    def __init__(self, files: CheckedFiles, numbers: npt.NDArray[np.int32]) -> None:
        order, is_new = sorted_numbers(
            len(numbers), lambda own: list(map(safe_path, files.names.texts(numbers[own])))
        )
        # The last one of equal paths counts.
        self._files, self._numbers = files, numbers[order[np.append(is_new[1:], True)[: len(order)]]]

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, place: int) -> FileRow: ...

    @overload
    def __getitem__(self, place: slice) -> list[FileRow]: ...

    def __getitem__(self, place: int | slice) -> FileRow | list[FileRow]:
        if not isinstance(place, slice):
            own = range(len(self))[place]
            return self[own : own + 1][0]
        names, digests, sizes = self._files.columns(self._numbers[place])
        return list(map(FileRow, map(safe_path, names), digests, sizes))

    def __iter__(self) -> Iterator[FileRow]:
        for start in range(0, len(self), _READ_AT_ONCE):
            yield from self[start : start + _READ_AT_ONCE]
