"""Content of a commit that is derived from other commits of the same store, without their media.

Media are named by their content, so a new commit can list media of any commit of the store, wherever they are
stored. Rows are read from the other commits and cut into ranges again, range by range, and each range is
written with the properties and places of its media before the next ones are cut. Memory therefore does not
depend on the number of rows.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple, TypeVar

from llava_av.datasets.blob_sources import range_source
from llava_av.datasets.commits import Commit
from llava_av.datasets.file_cache import FileCache
from llava_av.datasets.manifest import (
    FileRange,
    Manifest,
    QuarantinedEntry,
    Range,
    SplitEntry,
    list_path,
    safe_path,
)
from llava_av.datasets.media_facts import facts_of_ranges, pending_of_ranges, write_range_facts
from llava_av.datasets.placements import Place, read_placement, write_placement
from llava_av.datasets.ranges import FileRow, SampleLine, cut_files, cut_samples, parse_files
from llava_av.datasets.reading import ContentReader, open_content
from llava_av.datasets.uploads import upload_missing
from llava_av.media.info import MediaInfo
from llava_av.storage import ObjectStore

__all__ = ["DescribedFile", "RangeWriter", "best_described", "described_files", "media_paths"]

_Range = TypeVar("_Range", bound=Range)
_BATCH = 16
"""Ranges that are written at the same time."""


class DescribedFile(NamedTuple):
    """A media file and its known properties."""

    row: FileRow
    info: MediaInfo | None = None
    """Properties; None if they are unknown."""
    is_pending: bool = False
    """True if the file was not decoded when it was committed."""
    place: Place | None = None
    """Place in a pack; None if the file is a blob of its own."""


def described_files(store: ObjectStore, commit: Commit) -> Iterator[DescribedFile]:
    """Yield the media files of a commit by path.

    Raises:
        CommitError: A list of files, their properties or places are lost or damaged.
        StoreError: The object store cannot be used.
    """
    reader, facts_of = commit.reader(store), facts_of_ranges(store, commit)
    pending_of = pending_of_ranges(store, commit)
    for one in reader.files.ranges:
        placement = read_placement(store, commit.name, one) if reader.has_blobs else None
        places = {} if placement is None else placement.places
        facts, pending = facts_of(one), pending_of(one)
        for row in reader.files.load(one):
            digest = row.sha256
            yield DescribedFile(row, facts.get(digest), digest in pending, places.get(digest))


def best_described(files: Sequence[DescribedFile]) -> DescribedFile:
    """Return the file with the best-known properties among files with the same content."""
    return min(files, key=lambda each: (each.info is None, each.is_pending))


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
            rows = parse_files(one, content)
            found = described.take(rows)
            places = {digest: each.place for digest, each in found.items() if each.place is not None}
            write_placement(self._store, self._name, one, rows, places)
            facts = {digest: each.info for digest, each in found.items() if each.info is not None}
            if len(facts) == len(found):
                pending = frozenset(digest for digest, each in found.items() if each.is_pending)
                write_range_facts(self._store, self._name, one, facts, pending)
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
            sources = [range_source(path, one, partial(bytes, content)) for one, content in batch]
            upload_missing(self._store, sources, self._cache, None)
            yield from batch


class _Described:
    """Files that a range writer has read but not written yet."""

    def __init__(self, files: Iterable[DescribedFile]) -> None:
        self._files = files
        self._known: dict[str, DescribedFile] = {}
        self._uses: Counter[str] = Counter()

    def rows(self) -> Iterator[FileRow]:
        """Yield the rows, and remember their properties."""
        for each in self._files:
            digest = each.row.sha256
            self._uses[digest] += 1
            self._known[digest] = best_described([self._known.get(digest, each), each])
            yield each.row

    def take(self, rows: Iterable[FileRow]) -> dict[str, DescribedFile]:
        """Return the properties of rows by digest, and forget those that no other row needs."""
        found = {}
        for row in rows:
            found[row.sha256] = self._known[row.sha256]
            self._uses[row.sha256] -= 1
            if not self._uses[row.sha256]:
                del self._uses[row.sha256], self._known[row.sha256]
        return found
