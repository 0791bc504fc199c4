"""Immutable, content-addressed versions of a dataset in the object store.

A commit is written in the order blobs (`committing`), manifest, commit record, ref, and each object only if
it is absent. Therefore everything that a ref or a commit ID refers to is complete, even if a writer is
killed, and only content is sent that the newest commit does not have.

The ref is moved by compare-and-swap against the head that the writer saw before it read its files. If another
writer moved the ref since, the commit fails, unless the caller has chosen to rebase it (`rebase`) or to
replace the other content.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from llava_av.datasets.blob_sources import file_range_sources, no_sources
from llava_av.datasets.commit_names import full_id, no_dataset
from llava_av.datasets.file_cache import FileCache
from llava_av.datasets.manifest import (
    CommitError,
    CommitRecord,
    FlatManifest,
    Manifest,
    canonical_json,
    check_name,
    commit_key,
    manifest_key,
    parse_manifest,
    ref_key,
    sha256_hex,
)
from llava_av.datasets.packs import upload_content
from llava_av.datasets.reading import ContentReader, open_content
from llava_av.datasets.rebase import rebase
from llava_av.datasets.stored_blobs import StoredBlobs
from llava_av.datasets.uploads import upload_missing
from llava_av.frozen import FrozenModel
from llava_av.storage import ObjectMissing, ObjectStore
from llava_av.storage.seals import json_bytes, seal

__all__ = [
    "Commit",
    "CommitError",
    "CommitWriter",
    "Head",
    "OnConflict",
    "find_commit",
    "find_commits",
    "has_content",
    "read_commit",
    "read_head",
]

OnConflict = Literal["fail", "rebase", "force"]
"""Reaction to a commit of another writer: fail, commit both changes, or replace the other's content."""

_Parsed = TypeVar("_Parsed")
_REF_ATTEMPTS = 20


@dataclass(frozen=True, kw_only=True)
class Commit:
    """A version of a dataset; the last three fields describe its upload and are not stored."""

    name: str
    id: str
    parent: str | None
    manifest: Manifest | FlatManifest
    uploaded_files: int = 0
    uploaded_bytes: int = 0
    unchanged: bool = False

    @property
    def title(self) -> str:
        """Return its name in messages, `NAME@` and the first 16 digits of the ID."""
        return f"{self.name}@{self.id[:16]}"

    def reader(self, store: ObjectStore) -> ContentReader:
        """Return the reader of its files and samples."""
        return open_content(store, self.manifest, self.name, self.id)


@dataclass(frozen=True, kw_only=True)
class Head:
    """Newest commit of a dataset, None for a dataset without commits, and the entity tag of its ref."""

    commit: Commit | None
    etag: str

    @property
    def id(self) -> str | None:
        """ID of the commit."""
        return None if self.commit is None else self.commit.id

    def reader(self, store: ObjectStore) -> ContentReader | None:
        """Return the reader of the commit."""
        return None if self.commit is None else self.commit.reader(store)


def _digest(value: BaseModel) -> str:
    return sha256_hex(canonical_json(value))


def read_head(store: ObjectStore, name: str, known: Head | None = None) -> Head:
    """Read the newest commit of a dataset, unless it is still `known`.

    Raises:
        CommitError: The name is not allowed, or the commit is damaged.
        StoreError: The object store cannot be used.
    """
    check_name(name)
    key = ref_key(name)
    try:
        content, etag = store.get_with_etag(key)
    except ObjectMissing:
        return Head(commit=None, etag="")
    ref = _parse(_Ref.model_validate_json, store.unsealed(key, content).content, store.uri(key))
    commit = known.commit if known is not None and known.id == ref.commit else None
    return Head(commit=commit or read_commit(store, name, ref.commit), etag=etag)


class _Ref(FrozenModel):
    model_config = ConfigDict(extra="ignore")

    commit: str


@dataclass(frozen=True, kw_only=True)
class CommitWriter:
    """Writer of one commit whose media are stored already."""

    store: ObjectStore
    name: str
    on_conflict: OnConflict
    cache: FileCache
    before_head: Callable[[Commit], None] | None
    stored: StoredBlobs

    def add(self, content: ContentReader, base: Head) -> Commit:
        """Add a commit on top of `base`, or of a newer head if `on_conflict` allows it."""
        for attempt in range(_REF_ATTEMPTS):
            head = read_head(self.store, self.name, base)
            # Another writer committed the same content, or this write succeeded although its answer was lost.
            if head.commit is not None and has_content(self.store, head.commit, content):
                return replace(head.commit, unchanged=not attempt)
            if head.id != base.id:
                content = self._resolved(content, base, head)
                base = head
                continue
            if (commit := self.write(content, head)) is not None:
                return commit
        raise CommitError(f"dataset {self.name} is being committed by many others: run again")

    def write(self, content: ContentReader, head: Head) -> Commit | None:
        """Write a commit on top of a head; return None if the head is no longer the newest."""
        store, name, manifest = self.store, self.name, content.manifest()
        upload_missing(store, file_range_sources(content, head.reader(store)), self.cache, None)
        self.stored.write_placements(content)
        _ensure(store, manifest_key(name, _digest(manifest)), canonical_json(manifest))
        record = CommitRecord(name=name, manifest=_digest(manifest), parent=head.id)
        commit = Commit(name=name, id=_digest(record), parent=head.id, manifest=manifest)
        _ensure(store, commit_key(name, commit.id), canonical_json(record))
        if self.before_head is not None:
            self.before_head(commit)
        key = ref_key(name)
        ref = seal(key, json_bytes({"commit": commit.id}))
        moved = store.replace(key, ref, head.etag) if head.etag else store.create(key, ref)
        return commit if moved else None

    def _resolved(self, content: ContentReader, base: Head, head: Head) -> ContentReader:
        """Return the content to commit on top of another writer's head."""
        if self.on_conflict == "fail":
            was, found = ("no commit" if one.id is None else one.id[:16] for one in (base, head))
            raise CommitError(
                f"dataset {self.name} is not committed: another writer moved it from {was} to {found} "
                "meanwhile; commit again with --rebase to keep the changes of both, or with --force to "
                "replace the other content"
            )
        theirs = head.reader(self.store)
        if self.on_conflict == "rebase" and theirs is not None:
            content = rebase(base.reader(self.store), theirs, content)
            upload_content(self.store, content, theirs, no_sources, self.stored, self.cache)
        self.stored.add(content, base.reader(self.store), theirs)
        return content


def has_content(store: ObjectStore, commit: Commit, content: ContentReader) -> bool:
    """Check whether the content of a commit equals `content`."""
    manifest = content.manifest()
    if isinstance(commit.manifest, Manifest):
        return commit.manifest == manifest
    try:
        return commit.reader(store).manifest() == manifest
    except CommitError:
        # Its list of a split is lost or damaged: the new commit has an intact one.
        return False


def _ensure(store: ObjectStore, key: str, content: bytes) -> None:
    """Write an object unless it exists with this content."""
    if not store.create(key, content) and store.get_bytes(key) != content:
        store.put_bytes(key, content)


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
    parse = CommitRecord.model_validate_json
    record = _read_verified(store, parse, commit_key(name, commit), commit, f"{name}@{commit}")
    if record.name != name:
        raise CommitError(f"{name}@{commit} is a commit of dataset {record.name}")
    key = manifest_key(name, record.manifest)
    manifest = _read_verified(store, parse_manifest, key, record.manifest, f"the manifest of {name}@{commit}")
    return Commit(name=name, id=commit, parent=record.parent, manifest=manifest)


def _read_verified(
    store: ObjectStore, parse: Callable[[bytes], _Parsed], key: str, digest: str, what: str
) -> _Parsed:
    try:
        content = store.get_bytes(key)
    except ObjectMissing as error:
        raise CommitError(f"dataset {what} does not exist ({store.uri(key)} at {store.endpoint})") from error
    if sha256_hex(content) != digest:
        raise CommitError(
            f"dataset {what} is damaged: {store.uri(key)} does not have the digest in its name; "
            "restore it from a backup"
        )
    return _parse(parse, content, store.uri(key))


def _parse(parse: Callable[[bytes], _Parsed], content: bytes, uri: str) -> _Parsed:
    try:
        return parse(content)
    except ValueError as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise CommitError(f"{uri} is not what this version of llava-av writes: {reason}") from error


def find_commit(store: ObjectStore, dataset: str) -> Commit:
    """Read the commit that `NAME`, `NAME@COMMIT`, `NAME@FIRST-DIGITS-OF-COMMIT` or `NAME@TAG` names.

    Raises:
        CommitError: No commit or more than one matches; names the nearest dataset or tag.
    """
    name, _, wanted = dataset.partition("@")
    check_name(name)
    if not wanted:
        newest = read_head(store, name).commit
        if newest is None:
            raise no_dataset(store, name)
        return newest
    return read_commit(store, name, wanted if len(wanted) == 64 else full_id(store, name, wanted))
