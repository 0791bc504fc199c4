"""Snapshots of the bucket and of MLflow's database in another bucket.

`snapshots` defines a snapshot and its keys, and finds the bucket of backups. `making` copies the bucket,
sending only content that no earlier snapshot has. `snapshot_restoring` writes a snapshot back and verifies
it.
"""

from llava_av.backup.making import make_snapshot
from llava_av.backup.snapshot_restoring import restore_snapshot, verify_snapshot
from llava_av.backup.snapshots import BackupError, Snapshot, backup_store, find_snapshot, list_snapshots

__all__ = [
    "BackupError",
    "Snapshot",
    "backup_store",
    "find_snapshot",
    "list_snapshots",
    "make_snapshot",
    "restore_snapshot",
    "verify_snapshot",
]
