"""Making of a snapshot; only content that no earlier snapshot has is sent."""

import datetime
import json
import uuid
from collections.abc import Iterable, Sequence
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
    list_snapshots,
    snapshot_key,
    tier_of,
)
from llava_av.storage import ObjectInfo, ObjectMissing, ObjectStore
from llava_av.storage.transfer import file_sha256, map_parallel

__all__ = ["make_snapshot"]

_LOCK = "lock.json"
_LOCK_EXPIRY = datetime.timedelta(hours=6)


def make_snapshot(
    store: ObjectStore, backups: ObjectStore, work: Path, *, database: Path | None = None, keep: int = 0
) -> Snapshot:
    """Copy all objects of a bucket, together with an earlier dump of MLflow's database.

    MLflow refers to objects, and objects refer to objects that were written before them. Because the database
    is dumped first and objects are copied in the order of TIERS, the snapshot contains everything that it
    refers to, even if other processes write meanwhile.

    Args:
        store: Bucket to copy.
        backups: Bucket of snapshots.
        work: Folder for objects in transit.
        database: Dump of the database.
        keep: Number of newest snapshots to keep; 0 keeps all.

    Raises:
        BackupError: Another snapshot is being made.
    """
    now = datetime.datetime.now(datetime.UTC)
    _lock(backups, now)
    try:
        earlier = list_snapshots(backups)
        known = {entry.key: entry for entry in entries_of(backups, earlier[-1])} if earlier else {}
        copier = _Copier(store, backups, work, known)
        dump = None if database is None else copier.send(database)
        entries = copier.copy()
        snapshot = Snapshot(
            id=now.strftime("%Y%m%dT%H%M%SZ"),
            bucket=store.bucket,
            objects=len(entries),
            bytes=sum(entry.size for entry in entries),
            entries=copier.send_lines(entry.model_dump_json() for entry in entries),
            database=dump,
        )
        if not backups.create_json(snapshot_key(snapshot.id), snapshot.model_dump(mode="json")):
            raise BackupError(f"snapshot {snapshot.id} already exists; run again")
        if keep:
            _delete_old(backups, [*earlier, snapshot][:-keep], [*earlier, snapshot][-keep:])
        return snapshot
    finally:
        backups.delete(_LOCK)


class _Copier:
    def __init__(self, store: ObjectStore, backups: ObjectStore, work: Path, known: dict[str, Entry]) -> None:
        self._store = store
        self._backups = backups
        self._work = work
        self._known = known
        self._gone: set[str] = set()

    def copy(self) -> list[Entry]:
        """Copy all objects, tier by tier."""
        entries: list[Entry] = []
        for tier, (_, prefix) in enumerate(TIERS):
            listed = [one for one in self._store.list(prefix) if tier_of(one.key) == tier]
            entries += [entry for entry in map_parallel(self._copy_one, listed) if entry is not None]
        return [entry for entry in entries if _checkpoint(entry.key) not in self._gone]

    def send(self, path: Path) -> Content:
        """Upload a file's content unless a snapshot has it."""
        content = Content(sha256=file_sha256(path), size=path.stat().st_size)
        if not self._backups.exists(content_key(content)):
            self._backups.put_file(content_key(content), path)
        return content

    def send_lines(self, lines: Iterable[str]) -> Content:
        path = self._work / "entries.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return self.send(path)

    def _copy_one(self, listed: ObjectInfo) -> Entry | None:
        known = self._known.get(listed.key)
        if known is not None and listed.etag and (known.etag, known.size) == (listed.etag, listed.size):
            return known
        path = self._work / uuid.uuid4().hex
        try:
            self._store.get_file(listed.key, path)
            content = self.send(path)
        except ObjectMissing:
            self._gone.add(_checkpoint(listed.key))
            return None
        finally:
            path.unlink(missing_ok=True)
        return Entry(key=listed.key, etag=listed.etag, **content.model_dump())


def _checkpoint(key: str) -> str:
    """Return the prefix of the checkpoint that contains a key, or the key itself outside of checkpoints."""
    return "/".join(key.split("/")[:3]) if key.startswith("checkpoints/") else key


def _delete_old(backups: ObjectStore, old: Sequence[Snapshot], kept: Sequence[Snapshot]) -> None:
    """Delete snapshots, and then the content that no other snapshot needs."""
    for snapshot in old:
        backups.delete(snapshot_key(snapshot.id))
    needed = {content_key(content) for snapshot in kept for content in contents_of(backups, snapshot)}
    unneeded = [one.key for one in backups.list("objects/") if one.key not in needed]
    map_parallel(backups.delete, unneeded)


def _lock(backups: ObjectStore, now: datetime.datetime) -> None:
    """Take the lock; the lock of a killed process expires after some hours."""
    mine = json.dumps({"since": now.isoformat()}).encode()
    if backups.create(_LOCK, mine):
        return
    try:
        held, etag = backups.get_with_etag(_LOCK)
    except ObjectMissing:
        held, etag = b"", ""
    since = datetime.datetime.fromisoformat(json.loads(held)["since"]) if held else now
    if now - since < _LOCK_EXPIRY or not backups.replace(_LOCK, mine, etag):
        raise BackupError(
            f"another snapshot has been in progress since {since:%Y-%m-%d %H:%M} UTC; wait for it, or delete "
            f"{backups.uri(_LOCK)} if its process has ended"
        )
