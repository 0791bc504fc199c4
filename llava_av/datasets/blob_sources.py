"""Sources of the blobs of a commit: the local files, stored objects and lists that have their content."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from llava_av.datasets.file_cache import FileCache, Stamp
from llava_av.datasets.manifest import (
    CommitError,
    FileEntry,
    FileRange,
    Range,
    SampleRange,
    list_path,
    safe_path,
    sha256_hex,
)
from llava_av.datasets.placements import LARGEST_PACKED
from llava_av.datasets.ranges import FileRow, Listing, SampleLine, files_content, samples_content
from llava_av.datasets.reading import ContentReader
from llava_av.datasets.schema import Sample
from llava_av.storage import map_parallel

__all__ = [
    "MediaSources",
    "Source",
    "file_range_sources",
    "folder_sources",
    "media_sources",
    "no_sources",
    "range_source",
    "require_free_names",
    "sample_range_sources",
    "stored_path",
]

_HASHED_AT_ONCE = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Content of one blob: in a local file with its stamp when it was hashed, or returned by a function."""

    path: str
    """Path of the file, or of the list that a range belongs to."""
    entry: FileEntry
    content: Callable[[], bytes]
    local: str | None = None
    stamp: Stamp | None = None
    is_compared: bool = False
    """True if `content` is known to have the digest."""
    transfer: Callable[[], int | None] | None = None
    """Writes the blob and returns its size, or None if it is stored; instead of sending `content`."""

    def row(self) -> FileRow:
        """Return the row of a media file."""
        return FileRow(self.path, self.entry.sha256, self.entry.bytes)

    def require_unchanged(self) -> None:
        """Require that a local file has its stamp.

        Raises:
            CommitError: It changed.
            OSError: It cannot be accessed.
        """
        if self.local is not None and Stamp.of(self.local) != self.stamp:
            raise _changed(self.local)

    def compared(self) -> bytes:
        """Return the content.

        Raises:
            CommitError: It does not have the digest any more.
        """
        content = self.content()
        if not self.is_compared and sha256_hex(content) != self.entry.sha256:
            raise _changed(self.local)
        return content


MediaSources = Callable[[Iterable[FileRow]], Iterable[Source]]
"""Function that yields the sources of media files in the order of the files.

There may be millions, so it prepares few at a time."""


def no_sources(rows: Iterable[FileRow]) -> Iterable[Source]:
    """Return no sources, for content whose media are stored."""
    return ()


def sample_range_sources(content: ContentReader, newest: ContentReader | None) -> list[Source]:
    """Return the ranges of samples that the newest commit does not have."""
    found: list[Source] = []
    for split in content.splits:
        listing = content.samples(split)
        known = _ranges_of(newest, split)
        found += [
            range_source(list_path(split), one, partial(_samples, listing, one))
            for one in listing.ranges
            if one.sha256 not in known
        ]
    return found


def file_range_sources(content: ContentReader, newest: ContentReader | None) -> list[Source]:
    """Return the ranges of files that the newest commit does not have."""
    stored = newest.files.digests if newest is not None and newest.has_blobs else frozenset()
    files = content.files
    return [
        range_source(one.first, one, partial(_files, files, one))
        for one in files.ranges
        if one.sha256 not in stored
    ]


def _ranges_of(newest: ContentReader | None, split: str) -> frozenset[str]:
    """Return the digests of the stored ranges of a split."""
    known = newest is not None and newest.has_blobs and split in newest.splits
    return newest.samples(split).digests if newest is not None and known else frozenset()


def range_source(path: str, one: Range, content: Callable[[], bytes]) -> Source:
    """Return the source of the blob of a range."""
    return Source(path=path, entry=FileEntry(sha256=one.sha256, bytes=one.size), content=content)


def _samples(listing: Listing[SampleRange, SampleLine], one: SampleRange) -> bytes:
    return samples_content(listing.load(one)) if listing.content is None else listing.content(one)


def _files(listing: Listing[FileRange, FileRow], one: FileRange) -> bytes:
    return files_content(listing.load(one))


def media_sources(root: Path, splits: Mapping[str, Sequence[Sample]], cache: FileCache) -> list[Source]:
    """Return every media file that samples name; those that the cache does not know are hashed.

    Raises:
        CommitError: A path is not allowed, or a file cannot be read or changes while it is hashed.
    """
    paths = {stored_path(one.id, path) for own in splits.values() for one in own for path in one.media}
    require_free_names(paths, splits)
    return map_parallel(lambda path: _hash_file(root, path, cache), sorted(paths))


def require_free_names(paths: Iterable[str], splits: Iterable[str]) -> None:
    """Require that no media file has the name of the list of a split; all paths are read.

    Raises:
        CommitError: A file has such a name.
    """
    if taken := sorted(set(map(list_path, splits)).intersection(paths)):
        raise CommitError(f"{taken[0]} has the name of a split's own file: rename it")


def folder_sources(root: Path, cache: FileCache, rows: Iterable[FileRow]) -> Iterator[Source]:
    """Yield the sources of media files of a folder.

    Args:
        root: The folder.
        cache: Cache of digests.
        rows: The files as they were checked.

    Raises:
        CommitError: A file cannot be read, or changed since it was checked; for a tiny one, when its content
            is read.
    """
    remaining = iter(rows)
    while batch := list(islice(remaining, _HASHED_AT_ONCE)):
        long = [row for row in batch if row.bytes > LARGEST_PACKED]
        hashed = dict(zip(long, map_parallel(lambda row: _hash_again(root, row, cache), long), strict=True))
        for row in batch:
            yield hashed[row] if row in hashed else _tiny_source(str(root), row)


def _hash_again(root: Path, row: FileRow, cache: FileCache) -> Source:
    source = _hash_file(root, row.path, cache)
    if source.entry.sha256 != row.sha256:
        raise _changed(source.local)
    return source


def _tiny_source(root: str, row: FileRow) -> Source:
    """Return the source of a file that is not hashed now, because its content is compared when it is read."""
    local = f"{root}/{row.path}"
    entry = FileEntry(sha256=row.sha256, bytes=row.bytes)
    return Source(path=row.path, entry=entry, content=partial(_read, local), local=local)


def _read(local: str) -> bytes:
    try:
        with open(local, "rb", buffering=0) as file:
            return file.read()
    except OSError as error:
        raise _unreadable(local, error) from error


def stored_path(sample: str, path: str) -> str:
    """Return the path of a media file in a commit.

    Args:
        sample: ID of the sample that names the file, for messages.
        path: Path that the sample gives.

    Raises:
        CommitError: The path is not allowed.
    """
    try:
        return safe_path(path)
    except ValueError as error:
        raise CommitError(f"sample {sample} names a file that cannot be stored: {error}") from error


def _hash_file(root: Path, path: str, cache: FileCache) -> Source:
    local = f"{root}/{path}"
    try:
        known = cache.identify(Path(local))
    except OSError as error:
        raise _unreadable(local, error) from error
    entry = FileEntry(sha256=known.sha256, bytes=known.stamp.size)
    source = Source(path=path, entry=entry, content=partial(_read, local), local=local, stamp=known.stamp)
    source.require_unchanged()
    return source


def _unreadable(local: str, error: OSError) -> CommitError:
    return CommitError(f"cannot read {local}: {error.strerror}")


def _changed(local: str | None) -> CommitError:
    return CommitError(f"{local} changed during the commit: commit again when no program writes to it")
