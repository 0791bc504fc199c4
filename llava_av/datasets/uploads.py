"""Content of a commit, written to the blobs that the object store lacks.

A blob that the newest commit lists is stored, because its writer has sent it or compared it. Any other blob
counts only if its content was compared: its entity tag is the one that this content gets, or the blob was
read and has its digest. A blob with other content is written again.
"""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import compress
from pathlib import Path

from llava_av.datasets.blob_sources import Source
from llava_av.datasets.digest_index import DigestIndex
from llava_av.datasets.file_cache import FileCache
from llava_av.datasets.manifest import blob_key
from llava_av.datasets.placements import LARGEST_PACKED
from llava_av.datasets.ranges import FileRow
from llava_av.datasets.reading import ContentReader
from llava_av.datasets.stored_blobs import StoredBlobs
from llava_av.processes.progress import ProgressCallback
from llava_av.storage import ObjectInfo, ObjectMissing, ObjectStore, StoreError, map_parallel

__all__ = ["NewFiles", "Uploader", "has_digest", "naming", "upload_missing"]

# A smaller file is read once, so the bytes that were hashed are the bytes that are sent.
_SMALL_BYTES = 8 << 20
_BATCH = 4096


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
            # A smaller one is sent without a request for it first: the store refuses to replace it.
            stored = None if size <= LARGEST_PACKED else self._store.find(key)
            if self._is_intact(source, stored, None):
                return None
            if source.local is not None and size > _SMALL_BYTES:
                self._store.put_file(key, Path(source.local), check=source.require_unchanged)
                return size
            content = source.compared()
            if stored is None:
                if self._store.create(key, content):
                    return size
                if self._is_intact(source, self._store.find(key), content):
                    return None
            self._store.put_bytes(key, content)
            return size

    def _is_intact(self, source: Source, stored: ObjectInfo | None, content: bytes | None) -> bool:
        """Check whether a stored blob has the content of `source`, which may have been read already."""
        if stored is None or stored.size != source.entry.bytes:
            return False
        if stored.etag == self._entity_tag(source, content):
            return True
        # Another program may have sent it in other parts, or the server encrypts it.
        return has_digest(self._store, stored, source.entry.sha256, self._cache)

    def _entity_tag(self, source: Source, content: bytes | None) -> str:
        if content is None and source.local is not None and source.stamp is not None:
            return self._cache.entity_tag(Path(source.local), source.stamp)
        content = source.compared() if content is None else content
        return hashlib.md5(content, usedforsecurity=False).hexdigest()


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
