"""Content of a commit's files: hashed locally, then written to the blobs that the object store lacks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_av.datasets.manifest import CommitError, FileEntry, blob_key, safe_path, sha256_hex
from llava_av.datasets.schema import Sample, to_jsonl
from llava_av.processes.progress import ProgressCallback
from llava_av.storage import ObjectStore, file_sha256, map_parallel

__all__ = ["Source", "media_sources", "split_sources", "upload_missing"]

# A smaller file is read once, so the bytes that were hashed are the bytes that are sent.
_SMALL_BYTES = 8 << 20


@dataclass(frozen=True, kw_only=True)
class Source:
    """Content of one file: in memory, or in a local file with its modification time when it was hashed."""

    path: str
    entry: FileEntry
    content: bytes | None = None
    local: Path | None = None
    modified_ns: int = 0


def split_sources(splits: Mapping[str, Sequence[Sample]]) -> list[Source]:
    """Return the file that lists each split's samples, sorted by ID."""
    sources = []
    for split, samples in splits.items():
        content = to_jsonl(sorted(samples, key=lambda sample: sample.id)).encode()
        entry = FileEntry(sha256=sha256_hex(content), bytes=len(content))
        sources.append(Source(path=f"{split}.jsonl", entry=entry, content=content))
    return sources


def media_sources(root: Path, splits: Mapping[str, Sequence[Sample]]) -> list[Source]:
    """Hash every media file that samples name.

    Raises:
        CommitError: A path is not allowed, or a file cannot be read or changes while it is hashed.
    """
    paths = {_safe_path(sample, path) for own in splits.values() for sample in own for path in sample.media}
    taken = sorted(paths & {f"{split}.jsonl" for split in splits})
    if taken:
        raise CommitError(f"{root / taken[0]} has the name of a split's own file: rename it")
    return map_parallel(lambda path: _hash_file(root, path), sorted(paths))


def upload_missing(
    store: ObjectStore, sources: Sequence[Source], progress: ProgressCallback | None
) -> list[int]:
    """Write the blobs that the store lacks or holds truncated; return their sizes.

    The store is listed each time: blobs may have been lost since an earlier commit.
    """
    stored = {info.key: info.size for info in store.list("blobs/")}
    missing = {
        source.entry.sha256: source
        for source in sources
        if stored.get(blob_key(source.entry.sha256)) != source.entry.bytes
    }
    total = len(missing)
    sent = map_parallel(
        lambda source: _upload(store, source, overwrite=blob_key(source.entry.sha256) in stored),
        missing.values(),
        on_done=None if progress is None else lambda done: progress(done, total),
    )
    return [size for size in sent if size is not None]


def _safe_path(sample: Sample, path: str) -> str:
    try:
        return safe_path(path)
    except ValueError as error:
        raise CommitError(f"sample {sample.id} names a file that cannot be stored: {error}") from error


def _hash_file(root: Path, path: str) -> Source:
    local = root / path
    try:
        status = local.stat()
        digest = file_sha256(local)
    except OSError as error:
        raise CommitError(f"cannot read {local}: {error.strerror}") from error
    entry = FileEntry(sha256=digest, bytes=status.st_size)
    source = Source(path=path, entry=entry, local=local, modified_ns=status.st_mtime_ns)
    _require_unchanged(source, local)
    return source


def _upload(store: ObjectStore, source: Source, *, overwrite: bool) -> int | None:
    """Write one blob and return its size; None if another writer was faster."""
    key, size = blob_key(source.entry.sha256), source.entry.bytes
    if source.local is not None and size > _SMALL_BYTES:
        if not overwrite and store.exists(key):
            return None
        _upload_large(store, key, source, source.local)
        return size
    content = source.content if source.local is None else source.local.read_bytes()
    if content is None or sha256_hex(content) != source.entry.sha256:
        raise _changed(source.local)
    if overwrite:
        store.put_bytes(key, content)
        return size
    return size if store.create(key, content) else None


def _upload_large(store: ObjectStore, key: str, source: Source, local: Path) -> None:
    _require_unchanged(source, local)
    store.put_file(key, local)
    try:
        _require_unchanged(source, local)
    except CommitError:
        store.delete(key)
        raise


def _require_unchanged(source: Source, local: Path) -> None:
    status = local.stat()
    if (status.st_size, status.st_mtime_ns) != (source.entry.bytes, source.modified_ns):
        raise _changed(local)


def _changed(local: Path | None) -> CommitError:
    return CommitError(f"{local} changed during the commit: commit again when no program writes to it")
