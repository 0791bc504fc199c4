"""Media files of a commit by path; ranges are read on demand and kept on the local disk.

The file of a range has the rows and their places in packs as columns. Processes map it into memory, so a node
holds one copy:

rows | end of each path | size of each file | number of its pack or -1 | its first byte in the pack |
digest of each file | digest of each pack | all paths | checksum of the rest
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from llava_av.datasets.commits import Commit
from llava_av.datasets.manifest import CommitError, FileRange
from llava_av.datasets.media_blobs import download_files, find_places
from llava_av.datasets.media_facts import facts_of_ranges
from llava_av.datasets.placements import LARGEST_PACKED, Place
from llava_av.datasets.ranges import FileRow
from llava_av.files import write_whole
from llava_av.media.info import MediaInfo
from llava_av.storage import ObjectStore
from llava_av.storage.store_errors import local_files

__all__ = ["CommitFile", "CommitFiles"]

_FACTS_KEPT = 32
_CHECKSUM_BYTES = 32


class CommitFile(NamedTuple):
    """A media file and the commit that has it."""

    row: FileRow
    place: Place | None
    """Place in a pack; None for a blob of its own."""
    commit: CommitFiles


class CommitFiles:
    """Media files of a commit.

    Args:
        store: Store of the commit.
        commit: The commit.
        folder: Local folder for ranges, which the processes of a node share.
    """

    def __init__(self, store: ObjectStore, commit: Commit, folder: Path) -> None:
        self._store = store
        # Datasets with an equal range may have its files in different packs.
        self._folder = folder / commit.name
        self._reader = commit.reader(store)
        self._files = self._reader.files
        self._firsts = [one.first for one in self._files.ranges]
        self._ranges: dict[str, _RangeColumns] = {}
        self._facts = lru_cache(_FACTS_KEPT)(facts_of_ranges(store, commit))

    def find(self, path: str) -> CommitFile | None:
        """Return the file with a normalized path; None if the commit has none.

        Raises:
            CommitError: The range of the file is lost or damaged.
            StoreError: The object store or the local disk cannot be used.
        """
        one = self._range_of(path)
        found = self._columns(one).find(path) if one is not None else None
        return None if found is None else CommitFile(*found, self)

    def info(self, row: FileRow) -> MediaInfo | None:
        """Return the recorded properties of a file; None if there are none."""
        one = self._range_of(row.path)
        facts: Mapping[str, MediaInfo] = self._facts(one) if one is not None else {}
        return facts.get(row.sha256)

    def download(self, file: CommitFile, folder: Path) -> None:
        """Download a file to its path in a folder that no other process reads.

        Raises:
            CommitError: The file is lost or damaged.
            StoreError: The object store or the local disk cannot be used.
        """
        row, places = file.row, {} if file.place is None else {file.row.sha256: file.place}
        try:
            download_files(self._store, [row], places, folder)
        except CommitError:
            # A repair may have moved it since the range was read.
            current = find_places(self._reader, [row])
            if current == places:
                raise
            download_files(self._store, [row], current, folder)

    def _range_of(self, path: str) -> FileRange | None:
        place = bisect_right(self._firsts, path) - 1
        return self._files.ranges[place] if place >= 0 else None

    def _columns(self, one: FileRange) -> _RangeColumns:
        if one.sha256 not in self._ranges:
            file = self._folder / one.sha256
            found = _RangeColumns.read(file, one.rows)
            if found is None:
                paths, digests, sizes = self._read(one)
                places = self._reader.places(one) if min(sizes) <= LARGEST_PACKED else {}
                with local_files(file):
                    write_whole(file, _content(paths, digests, sizes, places))
                found = _RangeColumns.read(file, one.rows)
                assert found is not None, "a file that was just written is whole"
            self._ranges[one.sha256] = found
        return self._ranges[one.sha256]

    def _read(self, one: FileRange) -> tuple[Sequence[str], Sequence[str], Sequence[int]]:
        """Return paths, digests and sizes of a range."""
        if self._files.content is not None:
            # An object for each row would take most of the time.
            with contextlib.suppress(ValueError, KeyError, TypeError):
                columns = json.loads(self._files.content(one))
                found = columns["path"], columns["sha256"], columns["bytes"]
                if {*map(len, found)} == {one.rows}:
                    return found
        paths, digests, sizes = zip(*self._files.load(one), strict=True)
        return paths, digests, sizes


class _RangeColumns:
    """Columns of a range of files that are mapped into memory."""

    def __init__(self, content: npt.NDArray[np.uint8], rows: int) -> None:
        self._content, self._rows = content, rows
        numbers = content[8 : 8 + 32 * rows].view(np.int64)
        self._ends, self._sizes, self._packs, self._offsets = numbers.reshape(4, rows)
        self._digests = 8 + 32 * rows
        self._pack_digests = self._digests + 32 * rows
        self._paths = self._pack_digests + 32 * (int(self._packs.max()) + 1)

    @classmethod
    def read(cls, file: Path, rows: int) -> _RangeColumns | None:
        """Map a file; None if it is missing or damaged."""
        try:
            content = np.memmap(file, np.uint8, "r")
        except (FileNotFoundError, ValueError):
            return None
        body = content[:-_CHECKSUM_BYTES]
        is_whole = _checksum(body.data) == content[-_CHECKSUM_BYTES:].tobytes()
        return cls(body, rows) if is_whole and int(body[:8].view(np.int64)[0]) == rows else None

    def find(self, path: str) -> tuple[FileRow, Place | None] | None:
        wanted = path.encode()
        place = bisect_left(range(self._rows), wanted, key=self._path)
        if place == self._rows or self._path(place) != wanted:
            return None
        row = FileRow(path, self._digest(self._digests, place), int(self._sizes[place]))
        pack = int(self._packs[place])
        if pack < 0:
            return row, None
        return row, Place(self._digest(self._pack_digests, pack), int(self._offsets[place]))

    def _digest(self, first: int, number: int) -> str:
        at = first + 32 * number
        return self._content[at : at + 32].tobytes().hex()

    def _path(self, place: int) -> bytes:
        start = int(self._ends[place - 1]) if place else 0
        return self._content[self._paths + start : self._paths + int(self._ends[place])].tobytes()


def _content(
    names: Sequence[str], digests: Sequence[str], sizes: Sequence[int], places: Mapping[str, Place]
) -> bytes:
    paths = [name.encode() for name in names]
    packs: dict[str, int] = {}
    in_packs = np.zeros((2, len(paths)), np.int64)
    in_packs[0] = -1
    for row, digest in enumerate(digests if places else ()):
        if (place := places.get(digest)) is not None:
            in_packs[:, row] = packs.setdefault(place.pack, len(packs)), place.offset
    ends = np.cumsum(np.fromiter(map(len, paths), np.int64))
    columns = np.concatenate([[len(paths)], ends, np.array(sizes, np.int64), in_packs.ravel()])
    body = b"".join((columns.tobytes(), bytes.fromhex("".join((*digests, *packs))), *paths))
    return body + _checksum(body)


def _checksum(content: bytes | memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=_CHECKSUM_BYTES).digest()
