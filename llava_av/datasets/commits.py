"""Immutable, content-addressed versions of a dataset in the object store.

A commit is written in the order blobs, manifest, commit record, ref, and each object only if it is absent.
Therefore everything that a ref or a commit ID refers to is complete, even if a writer is killed. The ref is
moved by compare-and-swap.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from llava_av.datasets.manifest import (
    CommitError,
    CommitRecord,
    Manifest,
    QuarantinedEntry,
    SplitEntry,
    canonical_json,
    check_name,
    commit_key,
    manifest_key,
    ref_key,
    sha256_hex,
)
from llava_av.datasets.schema import Sample
from llava_av.datasets.tags import find_tag, list_tags
from llava_av.datasets.uploads import media_sources, split_sources, upload_missing
from llava_av.datasets.writers import announced
from llava_av.documents import close_name
from llava_av.plurals import listed
from llava_av.processes.progress import ProgressCallback
from llava_av.storage import ObjectMissing, ObjectStore, StoreError
from llava_av.storage.seals import json_bytes, seal

__all__ = ["Commit", "CommitError", "commit_dataset", "find_commit", "find_commits", "read_commit"]

_Model = TypeVar("_Model", bound=BaseModel)
_REF_ATTEMPTS = 20
_MAX_NAMED = 8


class _LeftOut(Protocol):
    @property
    def file(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def samples(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Commit:
    """A version of a dataset; the last three fields describe its upload and are not stored."""

    name: str
    id: str
    parent: str | None
    manifest: Manifest
    uploaded_files: int = 0
    uploaded_bytes: int = 0
    unchanged: bool = False


@announced
def commit_dataset(
    store: ObjectStore,
    name: str,
    root: Path,
    splits: Mapping[str, Sequence[Sample]],
    quarantined: Iterable[_LeftOut],
    *,
    before_head: Callable[[Commit], None] | None = None,
    progress: ProgressCallback | None = None,
) -> Commit:
    """Commit samples and the media that they name.

    If the newest commit is equal, it is kept and only blobs that the store has lost are written.

    Args:
        store: Object store to write to.
        name: Name of the dataset.
        root: Folder that media paths are relative to.
        splits: Samples of each split, in any order.
        quarantined: Samples that were left out; stored in the commit.
        before_head: Called with the new commit before it becomes the newest one, to write what belongs to it.
        progress: Called with the number of uploaded files and of files to upload.

    Returns:
        The new commit, or the newest existing one, marked as `unchanged`.

    Raises:
        CommitError: A name or path is not allowed, or a media file is missing or changes during the commit.
        StoreError: The object store cannot be used.
    """
    check_name(name)
    sources = split_sources(splits) + media_sources(root, splits)
    manifest = Manifest(
        files={source.path: source.entry for source in sources},
        splits={
            split: SplitEntry(file=f"{split}.jsonl", samples=len(samples))
            for split, samples in splits.items()
        },
        quarantined=tuple(_left_out(quarantined)),
    )
    newest, etag = _read_ref(store, name)
    sent = upload_missing(store, sources, progress)
    if newest is not None and newest.manifest == manifest:
        return replace(newest, unchanged=True, uploaded_files=len(sent), uploaded_bytes=sum(sent))
    store.create(manifest_key(name, _digest(manifest)), canonical_json(manifest))
    commit = _move_ref(store, name, manifest, newest, etag, before_head)
    return replace(commit, uploaded_files=len(sent), uploaded_bytes=sum(sent))


def _digest(value: BaseModel) -> str:
    return sha256_hex(canonical_json(value))


def _left_out(quarantined: Iterable[_LeftOut]) -> list[QuarantinedEntry]:
    entries = [
        QuarantinedEntry(file=each.file, reason=each.reason, samples=each.samples) for each in quarantined
    ]
    return sorted(entries, key=lambda entry: (entry.file, entry.reason))


def _read_ref(store: ObjectStore, name: str) -> tuple[Commit | None, str]:
    """Return the newest commit and the entity tag of the ref; (None, "") for a dataset without commits."""
    try:
        content, etag = store.get_with_etag(ref_key(name))
    except ObjectMissing:
        return None, ""
    ref = _parse(_Ref, store.unsealed(ref_key(name), content).content, store.uri(ref_key(name)))
    return read_commit(store, name, ref.commit), etag


class _Ref(BaseModel):
    commit: str


def _move_ref(
    store: ObjectStore,
    name: str,
    manifest: Manifest,
    newest: Commit | None,
    etag: str,
    before_head: Callable[[Commit], None] | None,
) -> Commit:
    """Add a commit on top of the newest one at the time when the ref can be moved."""
    for _ in range(_REF_ATTEMPTS):
        parent = None if newest is None else newest.id
        record = CommitRecord(name=name, manifest=_digest(manifest), parent=parent)
        commit = Commit(name=name, id=_digest(record), parent=parent, manifest=manifest)
        store.create(commit_key(name, commit.id), canonical_json(record))
        if before_head is not None:
            before_head(commit)
        key = ref_key(name)
        content = seal(key, json_bytes({"commit": commit.id}))
        if store.replace(key, content, etag) if etag else store.create(key, content):
            return commit
        newest, etag = _read_ref(store, name)
        # Another writer committed the same content, or this write succeeded although its answer was lost.
        if newest is not None and newest.manifest == manifest:
            return newest
    raise CommitError(f"dataset {name} is being committed by many others at the same time: run again")


def find_commits(store: ObjectStore, datasets: str) -> tuple[Commit, ...]:
    """Find several commits: `NAME` or `NAME@COMMIT` of each, separated by commas.

    Raises:
        CommitError: As `find_commit`; or a dataset is named twice.
        StoreError: The object store cannot be used.
    """
    commits = tuple(find_commit(store, one.strip()) for one in datasets.split(","))
    names = [commit.name for commit in commits]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise CommitError(f"{datasets}: dataset {twice} is named twice: name each dataset once")
    return commits


def read_commit(store: ObjectStore, name: str, commit: str) -> Commit:
    """Read a commit by its full ID and verify its digests.

    Raises:
        CommitError: The commit does not exist, or a stored object does not have the digest in its name.
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
            f"dataset {what} is damaged: {store.uri(key)} does not have the digest in its name; "
            "restore it from a backup"
        )
    return _parse(model, content, store.uri(key))


def _parse(model: type[_Model], content: bytes, uri: str) -> _Model:
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise CommitError(f"{uri} is not what this version of llava-av writes: {reason}") from error


def find_commit(store: ObjectStore, dataset: str) -> Commit:
    """Read the commit that `NAME`, `NAME@COMMIT`, `NAME@FIRST-DIGITS-OF-COMMIT` or `NAME@TAG` names.

    Raises:
        CommitError: No commit or more than one matches; names the nearest dataset or tag.
    """
    name, _, wanted = dataset.partition("@")
    check_name(name)
    if not wanted:
        newest, _ = _read_ref(store, name)
        if newest is None:
            raise _no_dataset(store, name)
        return newest
    return read_commit(store, name, wanted if len(wanted) == 64 else _full_id(store, name, wanted))


def _full_id(store: ObjectStore, name: str, wanted: str) -> str:
    """Return the ID of a commit from its first digits or from a tag; digits take precedence."""
    prefix = commit_key(name, wanted).removesuffix(".json")
    found = [info.key.rpartition("/")[2].removesuffix(".json") for info in store.list(prefix)]
    if len(found) == 1:
        return found[0]
    if found:
        raise CommitError(
            f"each of {len(found)} commits of dataset {name} in {store.uri('')} starts with {wanted}: give "
            f"more digits, such as {listed([one[: len(wanted) + 8] for one in found], 2)}"
        )
    tag = find_tag(store, name, wanted)
    if tag is not None:
        return tag.commit
    if not store.exists(ref_key(name)):
        raise _no_dataset(store, name)
    near = close_name(wanted, list_tags(store, name), cutoff=0.5)
    advice = f"did you mean {name}@{near}?" if near else f"see `llava-av data log {name}`"
    raise CommitError(
        f"no commit of dataset {name} in {store.uri('')} starts with {wanted}, and no tag has this name: "
        f"{advice}"
    )


def _no_dataset(store: ObjectStore, name: str) -> CommitError:
    try:
        keys = [info.key.split("/") for info in store.list("datasets/")]
    except StoreError:  # S3 keys with few permissions cannot list
        existing = "the existing ones cannot be listed"
    else:
        names = [parts[1] for parts in keys if len(parts) > 1 and "/".join(parts) == ref_key(parts[1])]
        near = close_name(name, names)
        guess = f"did you mean {near}? " if near else ""
        existing = f"{guess}existing are {listed(names, _MAX_NAMED)}" if names else "there is no dataset yet"
    return CommitError(
        f"dataset {name} does not exist in {store.uri('')} at {store.endpoint}: {existing}; "
        f"commit it with `llava-av data commit FOLDER --name {name}`"
    )
