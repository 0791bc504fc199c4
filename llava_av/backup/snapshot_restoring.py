"""Restoring of a snapshot into a bucket, with every byte verified."""

import uuid
from collections.abc import Sequence
from pathlib import Path

from llava_av.backup.snapshots import (
    TIERS,
    BackupError,
    Content,
    Entry,
    Snapshot,
    content_key,
    contents_of,
    entries_of,
    tier_of,
)
from llava_av.storage import ObjectMissing, ObjectStore, map_parallel

__all__ = ["restore_snapshot", "verify_snapshot"]


def restore_snapshot(
    store: ObjectStore,
    backups: ObjectStore,
    snapshot: Snapshot,
    work: Path,
    *,
    database: Path | None = None,
    overwrite: bool = False,
) -> int:
    """Write all objects of a snapshot into a bucket; objects are written after those that they refer to.

    Args:
        store: Bucket to write to; its objects that are not in the snapshot stay.
        backups: Bucket of snapshots.
        snapshot: Snapshot to restore.
        work: Folder for objects in transit.
        database: File for the dump of MLflow's database, which is restored after the bucket.
        overwrite: Replace objects with other content.

    Returns:
        The number of objects written; existing objects with the same content are not written.

    Raises:
        BackupError: The bucket has other content under a key of the snapshot, or the snapshot is damaged.
    """
    entries = entries_of(backups, snapshot)
    missing = _entries_to_write(store, snapshot, entries, overwrite=overwrite)
    if database is not None:
        if snapshot.database is None:
            raise BackupError(f"snapshot {snapshot.id} has no database: restore without --database")
        _fetch(backups, snapshot, snapshot.database, database)

    def restore(entry: Entry) -> None:
        path = work / uuid.uuid4().hex
        try:
            _fetch(backups, snapshot, entry, path)
            store.put_file(entry.key, path)
        finally:
            path.unlink(missing_ok=True)

    for tier in reversed(range(len(TIERS))):
        map_parallel(restore, [entry for entry in missing if tier_of(entry.key) == tier])
    return len(missing)


def _entries_to_write(
    store: ObjectStore, snapshot: Snapshot, entries: Sequence[Entry], *, overwrite: bool
) -> list[Entry]:
    """Return the objects that the bucket lacks, or has with other content if `overwrite` allows it."""
    stored = {info.key: (info.etag, info.size) for info in store.list()}
    # The entity tag of an object that was sent in parts, or to another kind of server, does not identify its
    # content.
    missing = [entry for entry in entries if stored.get(entry.key) != (entry.etag, entry.size)]
    conflicts = sorted(entry.key for entry in missing if entry.key in stored)
    if conflicts and not overwrite:
        raise BackupError(
            f"{len(conflicts)} objects of {store.uri('')} may have other content than in snapshot "
            f"{snapshot.id}, the first is {conflicts[0]}: restore into an empty bucket, or add --overwrite"
        )
    return missing


def verify_snapshot(backups: ObjectStore, snapshot: Snapshot, work: Path) -> int:
    """Read and verify all content of a snapshot.

    Returns:
        The number of distinct contents.

    Raises:
        BackupError: Content is missing or altered.
    """

    def verify(content: Content) -> None:
        path = work / uuid.uuid4().hex
        try:
            _fetch(backups, snapshot, content, path)
        finally:
            path.unlink(missing_ok=True)

    contents = {content.sha256: content for content in contents_of(backups, snapshot)}
    map_parallel(verify, contents.values())
    return len(contents)


def _fetch(backups: ObjectStore, snapshot: Snapshot, content: Content, path: Path) -> None:
    try:
        found = backups.get_file(content_key(content), path, sha256=content.sha256)
    except ObjectMissing:
        found = ""
    if found != content.sha256:
        what = content.key if isinstance(content, Entry) else "its list or its database"
        state = "is altered" if found else "is missing"
        raise BackupError(
            f"snapshot {snapshot.id} is damaged: {backups.uri(content_key(content))} ({what}) {state}; "
            "use another snapshot"
        )
