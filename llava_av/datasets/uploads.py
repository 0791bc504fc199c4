"""Content of a commit: hashed locally, then written to the blobs that the object store lacks.

A blob that the newest commit lists is stored, because its writer has sent it or compared it. Any other blob
counts only if its content was compared: its entity tag is the one that this content gets, or the blob was
read and has its digest. A blob with other content is written again.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress, islice
from pathlib import Path

from llava_av.datasets.digest_index import DigestIndex
from llava_av.datasets.file_cache import FileCache, Stamp
from llava_av.datasets.manifest import (
    CommitError,
    FileEntry,
    FileRange,
    Range,
    SampleRange,
    blob_key,
    list_path,
    safe_path,
    sha256_hex,
)
from llava_av.datasets.ranges import FileRow, Listing, SampleLine, files_content, samples_content
from llava_av.datasets.reading import ContentReader
from llava_av.datasets.schema import Sample
from llava_av.datasets.stored_blobs import StoredBlobs
from llava_av.processes.progress import ProgressCallback
from llava_av.storage import ObjectInfo, ObjectMissing, ObjectStore, StoreError, map_parallel

__all__ = [
    "MediaSources",
    "NewFiles",
    "Source",
    "Uploader",
    "file_range_sources",
    "folder_sources",
    "has_digest",
    "media_sources",
    "naming",
    "no_sources",
    "range_source",
    "require_free_names",
    "sample_range_sources",
    "stored_path",
    "upload_missing",
]

# A smaller file is read once, so the bytes that were hashed are the bytes that are sent.
_SMALL_BYTES = 8 << 20
# A smaller file is sent without asking for it first: the store refuses to replace it.
_TINY_BYTES = 256 << 10
_BATCH = 4096
_HASHED_AT_ONCE = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Content of one blob: in a local file with its stamp when it was hashed, or returned by a function."""

    path: str
    """Path of the file, or of the list that a range belongs to."""
    entry: FileEntry
    content: Callable[[], bytes]
    local: Path | None = None
    stamp: Stamp | None = None
    transfer: Callable[[], int | None] | None = None
    """Writes the blob and returns its size, or None if it is stored; instead of sending `content`."""

    def row(self) -> FileRow:
        """Return the row of a media file."""
        return FileRow(self.path, self.entry.sha256, self.entry.bytes)

    def compared(self) -> bytes:
        """Return the content.

        Raises:
            CommitError: It does not have the digest any more.
        """
        content = self.content()
        if sha256_hex(content) != self.entry.sha256:
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


class NewFiles:
    """Media files of some content that is not known to be in the newest commit, one for each digest.

    Args:
        content: Content to commit.
        newest: Newest commit; None if there is none.
        stored: Media of the newest commit.
    """

    def __init__(self, content: ContentReader, newest: ContentReader | None, stored: StoredBlobs) -> None:
        self._files, self._stored = content.files, stored
        self._before = newest.files.digests if newest is not None else frozenset()
        digests = DigestIndex()
        digests.add(row.sha256 for row in self._all())
        self._is_first = digests.firsts()

    def _all(self) -> Iterator[FileRow]:
        return (row for row in self._files.except_for(self._before) if row.sha256 not in self._stored)

    def __iter__(self) -> Iterator[FileRow]:
        return compress(self._all(), self._is_first)

    def __len__(self) -> int:
        return self._is_first.count(1)


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
        CommitError: A file cannot be read, or changed since it was checked.
    """
    remaining = iter(rows)
    while batch := list(islice(remaining, _HASHED_AT_ONCE)):
        sources = map_parallel(lambda row: _hash_file(root, row.path, cache), batch)
        for source, row in zip(sources, batch, strict=True):
            if source.entry.sha256 != row.sha256:
                raise _changed(source.local)
            yield source


def upload_missing(
    store: ObjectStore, sources: Iterable[Source], cache: FileCache, progress: ProgressCallback | None
) -> list[int]:
    """Write the blobs of sources that are not stored already, and return their sizes."""
    distinct = list({source.entry.sha256: source for source in sources}.values())
    uploader = Uploader(store, cache)
    sent: list[int] = []
    for start in range(0, len(distinct), _BATCH):
        report = None if progress is None else partial(_report, progress, start, len(distinct))
        sizes = map_parallel(uploader.upload, distinct[start : start + _BATCH], on_done=report)
        sent += [size for size in sizes if size is not None]
    return sent


def _report(progress: ProgressCallback, start: int, total: int, done: int) -> None:
    progress(start + done, total)


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
    local = root / path
    try:
        known = cache.identify(local)
    except OSError as error:
        raise CommitError(f"cannot read {local}: {error.strerror}") from error
    entry = FileEntry(sha256=known.sha256, bytes=known.stamp.size)
    source = Source(path=path, entry=entry, content=local.read_bytes, local=local, stamp=known.stamp)
    _require_unchanged(source, local)
    return source


class Uploader:
    """Comparison and upload of single blobs; errors of the store name the file."""

    def __init__(self, store: ObjectStore, cache: FileCache) -> None:
        self._store, self._cache = store, cache

    def upload(self, source: Source) -> int | None:
        """Write one blob and return its size; None if it is stored already."""
        key, size = blob_key(source.entry.sha256), source.entry.bytes
        with naming(source.path):
            if source.transfer is not None:
                return source.transfer()
            stored = None if size <= _TINY_BYTES else self._store.find(key)
            if self._is_intact(source, stored):
                return None
            if source.local is not None and size > _SMALL_BYTES:
                self._store.put_file(
                    key, source.local, check=partial(_require_unchanged, source, source.local)
                )
                return size
            content = source.compared()
            if stored is None:
                if self._store.create(key, content):
                    return size
                if self._is_intact(source, self._store.find(key)):
                    return None
            self._store.put_bytes(key, content)
            return size

    def _is_intact(self, source: Source, stored: ObjectInfo | None) -> bool:
        """Check whether a stored blob has the content of `source`."""
        if stored is None or stored.size != source.entry.bytes:
            return False
        if stored.etag == self._entity_tag(source):
            return True
        # Another program may have sent it in other parts, or the server encrypts it.
        return has_digest(self._store, stored, source.entry.sha256, self._cache)

    def _entity_tag(self, source: Source) -> str:
        if source.local is None or source.stamp is None:
            return hashlib.md5(source.content(), usedforsecurity=False).hexdigest()
        return self._cache.entity_tag(source.local, source.stamp)


def has_digest(store: ObjectStore, stored: ObjectInfo, sha256: str, cache: FileCache) -> bool:
    """Check whether an object has a digest; it is read unless the cache knows this version of it."""
    address = store.address(stored.key)
    if cache.is_verified(address, stored.etag):
        return True
    try:
        intact = store.sha256(stored.key) == sha256
    except ObjectMissing:
        return False
    if intact:
        cache.remember_verified(address, stored.etag)
    return intact


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Name a file of the dataset in the errors of its transfer."""
    try:
        yield
    except StoreError as error:
        if path not in str(error):
            error.args = (f"{path}: {error}",)
        raise


def _require_unchanged(source: Source, local: Path) -> None:
    if Stamp.of(local) != source.stamp:
        raise _changed(local)


def _changed(local: Path | None) -> CommitError:
    return CommitError(f"{local} changed during the commit: commit again when no program writes to it")
