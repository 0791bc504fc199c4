"""Content of a commit's files: hashed locally, then written to the blobs that the object store lacks.

A stored blob counts only if its content was compared: its entity tag is the one that this content gets, or
the blob was read and has its digest. A blob with other content is written again.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_av.datasets.file_cache import FileCache, Stamp
from llava_av.datasets.manifest import CommitError, FileEntry, blob_key, safe_path, sha256_hex
from llava_av.datasets.schema import Sample, to_jsonl
from llava_av.processes.progress import ProgressCallback
from llava_av.storage import ObjectInfo, ObjectMissing, ObjectStore, StoreError, map_parallel

__all__ = ["Source", "media_sources", "naming", "split_sources", "upload_missing"]

# A smaller file is read once, so the bytes that were hashed are the bytes that are sent.
_SMALL_BYTES = 8 << 20


@dataclass(frozen=True, kw_only=True)
class Source:
    """Content of one file: in memory, or in a local file with its stamp when it was hashed."""

    path: str
    entry: FileEntry
    content: bytes | None = None
    local: Path | None = None
    stamp: Stamp | None = None


def split_sources(splits: Mapping[str, Sequence[Sample]]) -> list[Source]:
    """Return the file that lists each split's samples, sorted by ID."""
    sources = []
    for split, samples in splits.items():
        content = to_jsonl(sorted(samples, key=lambda sample: sample.id)).encode()
        entry = FileEntry(sha256=sha256_hex(content), bytes=len(content))
        sources.append(Source(path=f"{split}.jsonl", entry=entry, content=content))
    return sources


def media_sources(root: Path, splits: Mapping[str, Sequence[Sample]], cache: FileCache) -> list[Source]:
    """Return every media file that samples name; those that the cache does not know are hashed.

    Raises:
        CommitError: A path is not allowed, or a file cannot be read or changes while it is hashed.
    """
    paths = {_safe_path(sample, path) for own in splits.values() for sample in own for path in sample.media}
    taken = sorted(paths & {f"{split}.jsonl" for split in splits})
    if taken:
        raise CommitError(f"{root / taken[0]} has the name of a split's own file: rename it")
    return map_parallel(lambda path: _hash_file(root, path, cache), sorted(paths))


def upload_missing(
    store: ObjectStore, sources: Sequence[Source], cache: FileCache, progress: ProgressCallback | None
) -> list[int]:
    """Write the blobs that the store lacks, or that have other content; return their sizes.

    The store is listed each time: blobs may have been lost since an earlier commit.
    """
    stored = {info.key: info for info in store.list("blobs/")}
    distinct = {source.entry.sha256: source for source in sources}
    uploader = _Uploader(store, cache)
    intact = map_parallel(
        lambda source: uploader.is_intact(source, stored.get(blob_key(source.entry.sha256))),
        distinct.values(),
    )
    missing = [source for source, found in zip(distinct.values(), intact, strict=True) if not found]
    sent = map_parallel(
        lambda source: uploader.upload(source, overwrite=blob_key(source.entry.sha256) in stored),
        missing,
        on_done=None if progress is None else lambda done: progress(done, len(missing)),
    )
    return [size for size in sent if size is not None]


def _safe_path(sample: Sample, path: str) -> str:
    try:
        return safe_path(path)
    except ValueError as error:
        raise CommitError(f"sample {sample.id} names a file that cannot be stored: {error}") from error


def _hash_file(root: Path, path: str, cache: FileCache) -> Source:
    local = root / path
    try:
        known = cache.identify(local)
    except OSError as error:
        raise CommitError(f"cannot read {local}: {error.strerror}") from error
    entry = FileEntry(sha256=known.sha256, bytes=known.stamp.size)
    source = Source(path=path, entry=entry, local=local, stamp=known.stamp)
    _require_unchanged(source, local)
    return source


class _Uploader:
    """Comparison and upload of single blobs; errors of the store name the file."""

    def __init__(self, store: ObjectStore, cache: FileCache) -> None:
        self._store, self._cache = store, cache

    def is_intact(self, source: Source, stored: ObjectInfo | None) -> bool:
        """Check whether a stored blob has the content of `source`."""
        if stored is None or stored.size != source.entry.bytes:
            return False
        if stored.etag == self._entity_tag(source):
            return True
        # Another program may have sent it in other parts, or the server encrypts it.
        address = f"{self._store.endpoint} {self._store.uri(stored.key)}"
        if self._cache.is_verified(address, stored.etag):
            return True
        with naming(source.path):
            intact = self._has_digest(stored.key, source.entry.sha256)
        if intact:
            self._cache.remember_verified(address, stored.etag)
        return intact

    def upload(self, source: Source, *, overwrite: bool) -> int | None:
        """Write one blob and return its size; None if another writer was faster."""
        key, size = blob_key(source.entry.sha256), source.entry.bytes
        with naming(source.path):
            if source.local is not None and size > _SMALL_BYTES:
                if not overwrite and self.is_intact(source, self._store.find(key)):
                    return None
                self._upload_large(key, source, source.local)
                return size
            content = source.content if source.local is None else source.local.read_bytes()
            if content is None or sha256_hex(content) != source.entry.sha256:
                raise _changed(source.local)
            if not overwrite and self._store.create(key, content):
                return size
            if not overwrite and self.is_intact(source, self._store.find(key)):
                return None
            self._store.put_bytes(key, content)
            return size

    def _entity_tag(self, source: Source) -> str:
        if source.local is None or source.stamp is None:
            return hashlib.md5(source.content or b"", usedforsecurity=False).hexdigest()
        return self._cache.entity_tag(source.local, source.stamp)

    def _has_digest(self, key: str, sha256: str) -> bool:
        try:
            return self._store.sha256(key) == sha256
        except ObjectMissing:
            return False

    def _upload_large(self, key: str, source: Source, local: Path) -> None:
        _require_unchanged(source, local)
        self._store.put_file(key, local)
        try:
            _require_unchanged(source, local)
        except CommitError:
            self._store.delete(key)
            raise


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
