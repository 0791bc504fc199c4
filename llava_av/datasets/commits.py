"""Immutable, content-addressed versions of a dataset in the object store.

A commit is written in the order blobs, manifest, commit, ref, each only if it is not there yet: whatever a
killed writer leaves, what a ref or a commit id leads to is whole. The ref moves by compare-and-swap.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from llava_av.datasets.checkout import checkout_files, read_split
from llava_av.datasets.manifest import (
    CommitError,
    CommitRecord,
    FileEntry,
    Manifest,
    QuarantinedEntry,
    SplitEntry,
    blob_key,
    canonical_json,
    check_name,
    commit_key,
    manifest_key,
    ref_key,
    safe_path,
    sha256_hex,
)
from llava_av.datasets.schema import Sample, to_jsonl
from llava_av.storage import ObjectMissing, ObjectStore, file_sha256, map_parallel
from llava_av.storage.seals import json_bytes, seal

__all__ = ["Commit", "CommitError", "checkout", "commit_dataset", "find_commit", "read_commit", "read_split"]

Progress = Callable[[int, int], None]
_Model = TypeVar("_Model", bound=BaseModel)

# Up to this size a file is read once, and the bytes that were hashed are those that are sent.
_SMALL_BYTES = 8 << 20
_REF_ATTEMPTS = 20


class _LeftOut(Protocol):
    @property
    def file(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def samples(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Commit:
    """A version of a dataset; the last three fields say what making it took and are not stored."""

    name: str
    id: str
    parent: str | None
    manifest: Manifest
    uploaded_files: int = 0
    uploaded_bytes: int = 0
    unchanged: bool = False


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Where one file's content is: in memory, or in a local file as it was when it was hashed."""

    path: str
    entry: FileEntry
    content: bytes | None = None
    local: Path | None = None
    modified_ns: int = 0


def commit_dataset(
    store: ObjectStore,
    name: str,
    root: Path,
    splits: Mapping[str, Sequence[Sample]],
    quarantined: Iterable[_LeftOut],
    *,
    progress: Progress | None = None,
) -> Commit:
    """Commit samples and the media that they name.

    If the newest commit is equal it is kept, and nothing is written but blobs that the store has lost.

    Args:
        store: Where to.
        name: Name of the dataset.
        root: Folder that media paths are relative to.
        splits: Samples of each split, in any order.
        quarantined: What was left out, to be told with the commit.
        progress: Called with files done and files in all while uploading.

    Returns:
        The new newest commit, or the present one, `unchanged`.

    Raises:
        CommitError: A name or path that cannot be used, a media file that is missing or changes meanwhile.
        StoreError: The object store cannot be used.
    """
    check_name(name)
    sources = _split_sources(splits) + _media_sources(root, splits)
    manifest = Manifest(
        files={source.path: source.entry for source in sources},
        splits={
            split: SplitEntry(file=f"{split}.jsonl", samples=len(samples))
            for split, samples in splits.items()
        },
        quarantined=tuple(_left_out(quarantined)),
    )
    newest, etag = _read_ref(store, name)
    sent = _upload_missing(store, sources, progress)
    if newest is not None and newest.manifest == manifest:
        return replace(newest, unchanged=True, uploaded_files=len(sent), uploaded_bytes=sum(sent))
    store.create(manifest_key(name, _digest(manifest)), canonical_json(manifest))
    commit = _move_ref(store, name, manifest, newest, etag)
    return replace(commit, uploaded_files=len(sent), uploaded_bytes=sum(sent))


def _upload_missing(store: ObjectStore, sources: Sequence[_Source], progress: Progress | None) -> list[int]:
    """Write the blobs that the store lacks or holds cut short; their sizes.

    What the store has is looked up, never concluded from an older commit: blobs may have been lost since.
    """
    there = {info.key: info.size for info in store.list("blobs/")}
    missing = {
        source.entry.sha256: source
        for source in sources
        if there.get(blob_key(source.entry.sha256)) != source.entry.bytes
    }
    total = len(missing)
    sent = map_parallel(
        lambda source: _upload(store, source, replace_it=blob_key(source.entry.sha256) in there),
        missing.values(),
        on_done=None if progress is None else lambda done: progress(done, total),
    )
    return [size for size in sent if size is not None]


def _digest(value: BaseModel) -> str:
    return sha256_hex(canonical_json(value))


def _left_out(quarantined: Iterable[_LeftOut]) -> list[QuarantinedEntry]:
    entries = [
        QuarantinedEntry(file=each.file, reason=each.reason, samples=each.samples) for each in quarantined
    ]
    return sorted(entries, key=lambda entry: (entry.file, entry.reason))


def _split_sources(splits: Mapping[str, Sequence[Sample]]) -> list[_Source]:
    sources = []
    for split, samples in splits.items():
        content = to_jsonl(sorted(samples, key=lambda sample: sample.id)).encode()
        entry = FileEntry(sha256=sha256_hex(content), bytes=len(content))
        sources.append(_Source(path=f"{split}.jsonl", entry=entry, content=content))
    return sources


def _media_sources(root: Path, splits: Mapping[str, Sequence[Sample]]) -> list[_Source]:
    paths = set()
    for samples in splits.values():
        for sample in samples:
            for path in sample.media:
                try:
                    paths.add(safe_path(path))
                except ValueError as error:
                    raise CommitError(
                        f"sample {sample.id} names a file that cannot be kept: {error}"
                    ) from error
    taken = sorted(paths & {f"{split}.jsonl" for split in splits})
    if taken:
        raise CommitError(f"{root / taken[0]} has the name of a split's own file: give it another name")
    return map_parallel(lambda path: _hash_file(root, path), sorted(paths))


def _hash_file(root: Path, path: str) -> _Source:
    local = root / path
    try:
        status = local.stat()
        digest = file_sha256(local)
    except OSError as error:
        raise CommitError(f"cannot read {local}: {error.strerror}") from error
    entry = FileEntry(sha256=digest, bytes=status.st_size)
    source = _Source(path=path, entry=entry, local=local, modified_ns=status.st_mtime_ns)
    _check_unchanged(source, local)
    return source


def _upload(store: ObjectStore, source: _Source, *, replace_it: bool) -> int | None:
    """Write one blob; its size, or None if another writer was quicker."""
    key, size = blob_key(source.entry.sha256), source.entry.bytes
    if source.local is not None and size > _SMALL_BYTES:
        if not replace_it and store.exists(key):
            return None
        _check_unchanged(source, source.local)
        store.put_file(key, source.local)
        try:
            _check_unchanged(source, source.local)
        except CommitError:
            store.delete(key)
            raise
        return size
    content = source.content if source.local is None else source.local.read_bytes()
    if content is None or sha256_hex(content) != source.entry.sha256:
        raise CommitError(f"{source.local} changed while it was committed: run again when it is finished")
    if replace_it:
        store.put_bytes(key, content)
        return size
    return size if store.create(key, content) else None


def _check_unchanged(source: _Source, local: Path) -> None:
    status = local.stat()
    if (status.st_size, status.st_mtime_ns) != (source.entry.bytes, source.modified_ns):
        raise CommitError(f"{local} changed while it was committed: run again when it is finished")


def _read_ref(store: ObjectStore, name: str) -> tuple[Commit | None, str]:
    """The newest commit, and the entity tag of the ref; (None, "") for a dataset without one."""
    try:
        content, etag = store.get_with_etag(ref_key(name))
    except ObjectMissing:
        return None, ""
    ref = _parse(_Ref, store.unsealed(ref_key(name), content).content, store.uri(ref_key(name)))
    return read_commit(store, name, ref.commit), etag


class _Ref(BaseModel):
    commit: str


def _move_ref(store: ObjectStore, name: str, manifest: Manifest, newest: Commit | None, etag: str) -> Commit:
    """Put a commit on top of the newest one, whichever that is by the time the ref can be moved."""
    for _ in range(_REF_ATTEMPTS):
        parent = None if newest is None else newest.id
        record = CommitRecord(name=name, manifest=_digest(manifest), parent=parent)
        commit = Commit(name=name, id=_digest(record), parent=parent, manifest=manifest)
        store.create(commit_key(name, commit.id), canonical_json(record))
        key = ref_key(name)
        content = seal(key, json_bytes({"commit": commit.id}))
        if store.replace(key, content, etag) if etag else store.create(key, content):
            return commit
        newest, etag = _read_ref(store, name)
        # Another writer committed the same, or this one's move arrived although its answer was lost.
        if newest is not None and newest.manifest == manifest:
            return newest
    raise CommitError(f"dataset {name} is being committed by many others at once: run again")


def read_commit(store: ObjectStore, name: str, commit: str) -> Commit:
    """Read a commit by its whole id, and check that it is what it was.

    Raises:
        CommitError: There is none, or what is stored does not have the digest that names it.
        StoreError: The object store cannot be used.
    """
    check_name(name)
    record = _read_verified(store, CommitRecord, commit_key(name, commit), commit, f"{name}@{commit}")
    if record.name != name:
        raise CommitError(f"{name}@{commit} is a commit of dataset {record.name}")
    key = manifest_key(name, record.manifest)
    manifest = _read_verified(store, Manifest, key, record.manifest, f"the manifest of {name}@{commit}")
    return Commit(name=name, id=commit, parent=record.parent, manifest=manifest)


def _read_verified(store: ObjectStore, model: type[_Model], key: str, digest: str, what: str) -> _Model:
    try:
        content = store.get_bytes(key)
    except ObjectMissing as error:
        raise CommitError(f"dataset {what} does not exist ({store.uri(key)} at {store.endpoint})") from error
    if sha256_hex(content) != digest:
        raise CommitError(
            f"dataset {what} is damaged: {store.uri(key)} does not have the digest it is named by"
        )
    return _parse(model, content, store.uri(key))


def _parse(model: type[_Model], content: bytes, uri: str) -> _Model:
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise CommitError(f"{uri} is not what this version of llava-av writes: {reason}") from error


def find_commit(store: ObjectStore, dataset: str) -> Commit:
    """Read the commit that `NAME`, `NAME@COMMIT` or `NAME@FIRST-DIGITS-OF-COMMIT` names.

    Raises:
        CommitError: There is none, or more than one begins so.
    """
    name, _, wanted = dataset.partition("@")
    check_name(name)
    if not wanted:
        newest, _ = _read_ref(store, name)
        if newest is None:
            raise CommitError(f"dataset {name} does not exist in {store.uri('')} at {store.endpoint}")
        return newest
    if len(wanted) < 64:
        prefix = commit_key(name, wanted).removesuffix(".json")
        found = [info.key.rpartition("/")[2].removesuffix(".json") for info in store.list(prefix)]
        if len(found) != 1:
            count = "no commit" if not found else f"{len(found)} commits"
            raise CommitError(f"{count} of dataset {name} in {store.uri('')} begins with {wanted}")
        wanted = found[0]
    return read_commit(store, name, wanted)


def checkout(
    store: ObjectStore,
    commit: Commit,
    folder: Path,
    splits: Iterable[str] | None = None,
    *,
    progress: Progress | None = None,
) -> Path:
    """Make `folder` a verified local copy of a commit, or of some of its splits, and return it.

    What is there already is kept, what belongs to another commit is removed. Any number of processes may do
    this to one folder at once. A folder is only taken for whole once all of it was verified.

    Args:
        store: Where from.
        commit: What.
        folder: Made if need be; it must be empty or made by an earlier checkout.
        splits: Splits whose samples and media are wanted; all if None.
        progress: Called with files done and files in all.

    Raises:
        CommitError: An unknown split, content that does not have its digest, or a folder of something else.
        StoreError: The object store or the local disk cannot be used.
    """
    wanted = tuple(commit.manifest.splits) if splits is None else tuple(splits)
    return checkout_files(store, commit.id, commit.manifest, folder, wanted, progress)
