"""From a snapshot back into a bucket, with every byte verified on its way."""

import uuid
from pathlib import Path

from llava_av.backup.snapshots import (
    STAGES,
    BackupError,
    Content,
    Entry,
    Snapshot,
    content_key,
    contents_of,
    entries_of,
    stage_of,
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
    """Writes all objects of a snapshot into a bucket, what refers to others after these.

    Args:
        store: the bucket; objects that the snapshot lacks stay as they are.
        backups: where snapshots are.
        snapshot: which one.
        work: folder for one object after another on its way.
        database: file that the dump of MLflow's database is written to, which is restored after the bucket.
        overwrite: whether objects with other content are replaced.

    Returns:
        How many objects were written; those that were there are not.

    Raises:
        BackupError: the bucket has other content under a key of the snapshot, or the snapshot is damaged.
    """
    present = {one.key: one for one in store.list()}
    entries = entries_of(backups, snapshot)
    # An entity tag does not tell the content of what was sent in parts, or to a server of another make.
    same = {
        entry.key
        for entry in entries
        if entry.key in present
        and (present[entry.key].etag, present[entry.key].size) == (entry.etag, entry.size)
    }
    other = sorted(entry.key for entry in entries if entry.key in present and entry.key not in same)
    if other and not overwrite:
        raise BackupError(
            f"{len(other)} objects of {store.uri('')} may have other content than in snapshot {snapshot.id},"
            f" {other[0]} the first: restore into an empty bucket, or add --overwrite"
        )
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

    missing = [entry for entry in entries if entry.key not in same]
    for stage in reversed(range(len(STAGES))):
        map_parallel(restore, [entry for entry in missing if stage_of(entry.key) == stage])
    return len(missing)


def verify_snapshot(backups: ObjectStore, snapshot: Snapshot, work: Path) -> int:
    """Reads all that a snapshot needs.

    Returns:
        How many different contents it has.

    Raises:
        BackupError: one is missing, or other bytes than were written.
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
        state = "has other bytes" if found else "is missing"
        raise BackupError(
            f"snapshot {snapshot.id} is damaged: {backups.uri(content_key(content))} ({what}) {state};"
            " use another snapshot"
        )
