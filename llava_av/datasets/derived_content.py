"""Content of a commit that is derived from other commits of the same store, without their media.

Media are named by their content, so a new commit can list media of any commit of the store. Rows are read
from the other commits and cut into ranges again, range by range, and each range is written with the
properties of its media before the next one is cut. Memory therefore does not depend on the number of rows.
"""

import json
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from typing import NamedTuple, TypeVar

from llava_av.datasets.commits import Commit
from llava_av.datasets.file_cache import FileCache
from llava_av.datasets.manifest import (
    FileEntry,
    FileRange,
    Manifest,
    QuarantinedEntry,
    Range,
    SplitEntry,
    list_path,
    safe_path,
)
from llava_av.datasets.media_facts import facts_of_ranges, write_range_facts
from llava_av.datasets.ranges import FileRow, SampleLine, cut_files, cut_samples, parse_files
from llava_av.datasets.reading import ContentReader, open_content
from llava_av.datasets.uploads import Source, upload_missing
from llava_av.media.info import MediaInfo
from llava_av.storage import ObjectStore

__all__ = ["DescribedFile", "RangeWriter", "described_files", "media_paths"]

_Range = TypeVar("_Range", bound=Range)
_BATCH = 16
"""Ranges that are written at the same time."""


class DescribedFile(NamedTuple):
    """A media file and its properties; None if they are unknown."""

    row: FileRow
    info: MediaInfo | None


def described_files(store: ObjectStore, commit: Commit) -> Iterator[DescribedFile]:
    """Yield the media files of a commit by path.

    Raises:
        CommitError: A list of files or their properties are lost or damaged.
        StoreError: The object store cannot be used.
    """
    files, facts_of = commit.reader(store).files, facts_of_ranges(store, commit)
    for one in files.ranges:
        facts = facts_of(one)
        yield from (DescribedFile(row, facts.get(row.sha256)) for row in files.load(one))


def media_paths(line: SampleLine) -> set[str]:
    """Return the paths of a sample's media, faster than by parsing the sample."""
    data = json.loads(line.text)
    named = (data.get(role, ()) for role in ("image", "video", "audio"))
    # Earlier versions of the commands may have written one path as text.
    return {safe_path(path) for paths in named for path in ([paths] if isinstance(paths, str) else paths)}


class RangeWriter:
    """Writer of the ranges of one new commit.

    Args:
        store: Store of the commit and of all media that it lists.
        name: Name of its dataset.
    """

    def __init__(self, store: ObjectStore, name: str) -> None:
        self._store, self._name, self._cache = store, name, FileCache()
        self._files: tuple[FileRange, ...] = ()
        self._splits: dict[str, SplitEntry] = {}

    def write_samples(self, split: str, lines: Iterable[SampleLine]) -> None:
        """Write the samples of a split, sorted by ID; a split without samples is left out."""
        ranges = tuple(one for one, _ in self._stored(list_path(split), cut_samples(lines)))
        if ranges:
            self._splits[split] = SplitEntry(samples=sum(one.rows for one in ranges), ranges=ranges)

    def write_files(self, files: Iterable[DescribedFile]) -> None:
        """Write the media files, sorted by path."""
        described = _Described(files)
        ranges = []
        for one, content in self._stored("files", cut_files(described.rows())):
            facts = described.take(parse_files(one, content))
            if facts is not None:
                write_range_facts(self._store, self._name, one, facts)
            ranges.append(one)
        self._files = tuple(ranges)

    def content(self, quarantined: Iterable[QuarantinedEntry]) -> ContentReader:
        """Return the content that was written."""
        manifest = Manifest(
            files=self._files,
            splits=dict(sorted(self._splits.items())),
            quarantined=tuple(sorted(quarantined, key=lambda entry: (entry.file, entry.reason))),
        )
        return open_content(self._store, manifest, self._name, "new")

    def _stored(self, path: str, ranges: Iterable[tuple[_Range, bytes]]) -> Iterator[tuple[_Range, bytes]]:
        """Write ranges in batches, and yield them."""
        remaining = iter(ranges)
        while batch := list(islice(remaining, _BATCH)):
            sources = [
                Source(
                    path=path,
                    entry=FileEntry(sha256=one.sha256, bytes=one.size),
                    content=partial(bytes, content),
                )
                for one, content in batch
            ]
            upload_missing(self._store, sources, self._cache, None)
            yield from batch


class _Described:
    """Properties of the files that a range writer has read but not written yet."""

    def __init__(self, files: Iterable[DescribedFile]) -> None:
        self._files = files
        self._known: dict[str, MediaInfo] = {}
        self._uses: dict[str, int] = {}

    def rows(self) -> Iterator[FileRow]:
        """Yield the rows, and remember their properties."""
        for row, info in self._files:
            self._uses[row.sha256] = self._uses.get(row.sha256, 0) + 1
            if info is not None:
                self._known[row.sha256] = info
            yield row

    def take(self, rows: Iterable[FileRow]) -> dict[str, MediaInfo] | None:
        """Return the properties of rows, and forget those that no other row needs; None if one is unknown."""
        digests = [row.sha256 for row in rows]
        found = {digest: self._known[digest] for digest in digests if digest in self._known}
        is_complete = len(found) == len(set(digests))
        for digest in digests:
            self._uses[digest] -= 1
            if not self._uses[digest]:
                del self._uses[digest]
                self._known.pop(digest, None)
        return found if is_complete else None
