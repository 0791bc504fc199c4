"""Deletion of blobs that no commit needs, and on request of old commits.

A blob is needed if a commit refers to it, or if it is a pack that holds a file of a commit. A commit is
needed if it is the newest of its dataset or one of the newest `keep_commits`, if it has a tag, or if its ID
is in any JSON object of runs, models and experiments; these include run requests, lineages, evaluations and
aliases. A checkpoint refers to commits through the request of its run; if that is lost, no commit is deleted.
Nothing younger than the safety age is deleted.

This is safe beside writers for three reasons. First, the deletion holds a lock and requires that no commit is
being written (`datasets.writers`), and only then reads what is needed: a commit that was complete before is
read, one that began before is seen and stops the deletion, and one that begins later sees the lock and fails
before it relies on any blob. Second, content that other tools write without an announcement, such as a
restored backup, is younger than the safety age. Third, a commit is deleted before its manifest and a manifest
before its blobs, so a killed deletion leaves unused objects and no commit without content. If anything that
may refer to a commit cannot be read, nothing is deleted.

A reader of an old commit that this command deletes fails with an error that names the lost file. Jobs read
commits that a run request names, so they are not affected.
"""

import datetime
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llava_av.datasets.commits import Commit, CommitError, read_commit
from llava_av.datasets.history import history_key
from llava_av.datasets.ingest_results import INGESTS
from llava_av.datasets.manifest import CommitRecord, FlatManifest, commit_key, manifest_key, ref_key
from llava_av.datasets.media_facts import media_facts_keys, pending_keys
from llava_av.datasets.placements import placement_keys, read_placement
from llava_av.datasets.tags import list_tags
from llava_av.datasets.writers import DeletionLock, deletion_lock, require_no_writer
from llava_av.storage import ObjectInfo, ObjectStore, map_parallel

__all__ = ["SAFETY_AGE", "Garbage", "delete_garbage", "find_garbage"]

SAFETY_AGE = datetime.timedelta(days=7)
"""Default age from which unused objects are deleted."""
_RECORDS = ("manifests", "media", "packs")
_REFERRING = ("runs/", "models/", "experiments/")
_ID = re.compile(rb"[0-9a-f]{64}")
_BATCH = 100


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """Objects that nothing needs."""

    commits: tuple[str, ...]
    """Old commits, as `NAME@COMMIT`."""
    records: tuple[str, ...]
    """Keys of these commits, of their history, of unused manifests, properties and placements, and of results
    of abandoned ingests; in the order of deletion."""
    blobs: tuple[ObjectInfo, ...]
    """Unused blobs."""
    kept_commits: int
    kept_blobs: int
    """Blobs that are needed, or younger than the safety age."""

    @property
    def bytes(self) -> int:
        """Return the size of the blobs."""
        return sum(blob.size for blob in self.blobs)

    def to_json(self) -> dict[str, Any]:
        """Return the objects as JSON."""
        return {
            "commits": list(self.commits),
            "blobs": [blob.key for blob in self.blobs],
            "bytes": self.bytes,
            "kept_commits": self.kept_commits,
            "kept_blobs": self.kept_blobs,
        }


def find_garbage(
    store: ObjectStore,
    *,
    keep_commits: int | None = None,
    safety_age: datetime.timedelta = SAFETY_AGE,
    lock: DeletionLock | None = None,
) -> Garbage:
    """Find unneeded objects.

    Args:
        store: The store.
        keep_commits: Number of newest commits of each dataset to keep, at least 1; None keeps all.
        safety_age: Age from which an unused object is garbage.
        lock: Lock to renew meanwhile.

    Raises:
        CommitError: A commit is damaged, or it cannot be determined which commits are needed.
        StoreError: The object store cannot be used.
    """
    before = datetime.datetime.now(datetime.UTC) - safety_age
    renew = _nothing if lock is None else lock.renew
    stored = _datasets(_renewing(store.list("datasets/"), renew))
    old = {} if keep_commits is None else _old_commits(store, stored, keep_commits, before, renew)
    needed = _Needed(store, renew)
    records: set[str] = set()
    kept = 0
    for name, objects in stored.items():
        for commit in _kept_commits(store, name, objects, old.get(name, set())):
            renew()
            kept += 1
            # The digest of the stored bytes: this version may write a manifest of an earlier one differently.
            record = CommitRecord.model_validate_json(store.get_bytes(commit_key(name, commit.id)))
            records.update((manifest_key(name, record.manifest), *media_facts_keys(commit)))
            records.update(pending_keys(commit))
            records.update(placement_keys(name, commit.manifest))
            needed.add(commit)
    blobs = list(_renewing(store.list("blobs/"), renew))
    unused = tuple(blob for blob in blobs if blob.key not in needed and _is_older(blob, before))
    return Garbage(
        commits=tuple(f"{name}@{commit}" for name, ids in old.items() for commit in sorted(ids)),
        records=(*_records(stored, old, records, before), *_abandoned(store, before)),
        blobs=unused,
        kept_commits=kept,
        kept_blobs=len(blobs) - len(unused),
    )


class _Needed:
    """Blobs of commits."""

    def __init__(self, store: ObjectStore, renew: Callable[[], None]) -> None:
        self._store, self._renew = store, renew
        self._digests: set[bytes] = set()
        self._read: set[tuple[str, str]] = set()

    def add(self, commit: Commit) -> None:
        """Add the blobs of a commit; a list of files that commits share is read once."""
        manifest = commit.manifest
        if isinstance(manifest, FlatManifest):
            self._add(entry.sha256 for entry in manifest.files.values())
            return
        lists = [one for split in manifest.splits.values() for one in split.ranges]
        self._add(one.sha256 for one in (*lists, *manifest.files))
        files = commit.reader(self._store).files
        for one in files.ranges:
            # A placement belongs to one dataset, and a range to all.
            if (commit.name, one.sha256) not in self._read:
                self._renew()
                self._add(row.sha256 for row in files.load(one))
                placement = read_placement(self._store, commit.name, one)
                self._add(() if placement is None else placement.packs)
                self._read.add((commit.name, one.sha256))

    def _add(self, digests: Iterable[str]) -> None:
        self._digests.update(map(bytes.fromhex, digests))

    def __contains__(self, key: object) -> bool:
        found = re.fullmatch(r"blobs/../([0-9a-f]{64})", str(key))
        return found is not None and bytes.fromhex(found[1]) in self._digests


def delete_garbage(
    store: ObjectStore, *, keep_commits: int | None = None, safety_age: datetime.timedelta = SAFETY_AGE
) -> Garbage:
    """Delete unneeded objects, and return them; arguments and errors as for `find_garbage`.

    Raises:
        CommitError: A commit is being written, or another deletion runs.
    """
    with deletion_lock(store) as lock:
        require_no_writer(store, max(safety_age, SAFETY_AGE))
        garbage = find_garbage(store, keep_commits=keep_commits, safety_age=safety_age, lock=lock)
        for key in garbage.records:
            lock.renew()
            store.delete(key)
        keys = [blob.key for blob in garbage.blobs]
        for start in range(0, len(keys), _BATCH):
            lock.renew()
            map_parallel(store.delete, keys[start : start + _BATCH])
    return garbage


def _nothing() -> None:
    """Renew no lock."""


def _renewing(objects: Iterable[ObjectInfo], renew: Callable[[], None]) -> Iterator[ObjectInfo]:
    """Yield objects, and renew the lock meanwhile: large buckets take longer than it holds."""
    for info in objects:
        renew()
        yield info


def _datasets(objects: Iterable[ObjectInfo]) -> dict[str, dict[str, ObjectInfo]]:
    """Return the objects of each dataset by key."""
    found: dict[str, dict[str, ObjectInfo]] = defaultdict(dict)
    for info in objects:
        parts = info.key.split("/")
        if len(parts) > 3:
            found[parts[1]][info.key] = info
    return dict(found)


def _commit_ids(name: str, objects: Mapping[str, ObjectInfo]) -> set[str]:
    prefix = f"datasets/{name}/commits/"
    return {key.removeprefix(prefix).removesuffix(".json") for key in objects if key.startswith(prefix)}


def _kept_commits(
    store: ObjectStore, name: str, objects: Mapping[str, ObjectInfo], old: set[str]
) -> Iterator[Commit]:
    for commit in sorted(_commit_ids(name, objects) - old):
        yield read_commit(store, name, commit)


def _old_commits(
    store: ObjectStore,
    stored: Mapping[str, Mapping[str, ObjectInfo]],
    keep: int,
    before: datetime.datetime,
    renew: Callable[[], None],
) -> dict[str, set[str]]:
    """Return the commits of each dataset that nothing needs and that are older than the safety age."""
    _require_requests(store, renew)
    mentioned = _mentioned_ids(store, renew)
    old: dict[str, set[str]] = {}
    for name, objects in sorted(stored.items()):
        renew()
        needed = mentioned | _newest(store, name, objects, keep)
        needed |= {tag.commit for tag in list_tags(store, name).values()}
        old[name] = {
            commit
            for commit in _commit_ids(name, objects) - needed
            if _is_older(objects[commit_key(name, commit)], before)
        }
    return old


def _newest(store: ObjectStore, name: str, objects: Mapping[str, ObjectInfo], keep: int) -> set[str]:
    if ref_key(name) not in objects:
        # Without its ref, it cannot be determined which commits are the newest.
        return _commit_ids(name, objects)
    commit: str | None = store.get_json(ref_key(name))["commit"]
    found: set[str] = set()
    # An ancestor may have been deleted earlier; a newest commit that is lost is damage, so reading it fails.
    while commit is not None and len(found) < keep and (not found or commit_key(name, commit) in objects):
        found.add(commit)
        commit = read_commit(store, name, commit).parent
    return found


def _require_requests(store: ObjectStore, renew: Callable[[], None]) -> None:
    objects = _renewing(store.list("checkpoints/"), renew)
    runs = {info.key.split("/")[1] for info in objects if info.key.count("/") > 1}
    for run in sorted(runs):
        renew()
        # Base models refer to no commit (`checkpoints.base_model.push_base`).
        if not run.startswith("base-") and not store.exists(f"runs/{run}/request.json"):
            raise CommitError(
                f"the commits that checkpoints of run {run} need are unknown: its runs/{run}/request.json is "
                "lost; restore it from a backup, delete its checkpoints, or omit --keep-commits"
            )


def _mentioned_ids(store: ObjectStore, renew: Callable[[], None]) -> set[str]:
    """Return all texts with the form of a commit's ID in JSON objects that may refer to commits."""
    objects = _renewing(itertools.chain.from_iterable(map(store.list, _REFERRING)), renew)
    keys = [info.key for info in objects if info.key.endswith(".json")]
    read = map_parallel(lambda key: set(_ID.findall(store.get_bytes(key))), keys, on_done=lambda _: renew())
    return {one.decode() for ids in read for one in ids}


def _records(
    stored: Mapping[str, Mapping[str, ObjectInfo]],
    old: Mapping[str, set[str]],
    records: set[str],
    before: datetime.datetime,
) -> Iterator[str]:
    """Yield the keys of old commits and of what only they need, in the order of deletion."""
    for name, commits in old.items():
        yield from (commit_key(name, commit) for commit in sorted(commits))
        for commit in sorted(commits):
            if history_key(name, commit) in stored[name]:
                yield history_key(name, commit)
    for name, objects in stored.items():
        for key, info in objects.items():
            is_record = key.startswith(tuple(f"datasets/{name}/{kind}/" for kind in _RECORDS))
            if is_record and key not in records and _is_older(info, before):
                yield key


def _abandoned(store: ObjectStore, before: datetime.datetime) -> Iterator[str]:
    """Yield the keys of results of ingests that ended without a commit."""
    yield from (info.key for info in store.list(INGESTS) if _is_older(info, before))


def _is_older(info: ObjectInfo, before: datetime.datetime) -> bool:
    return info.modified is not None and info.modified < before
