"""Contents of a snapshot, and its keys in the bucket of backups.

    objects/<2 hex>/<sha256>    content, shared by all snapshots
    snapshots/<id>.json         which content lists a snapshot's keys; written last

An ID is the UTC time at which the snapshot was started, so IDs sort by age.
"""

import hashlib
import os
import re
from collections.abc import Mapping

from pydantic import Field

from llava_av.errors import UserError
from llava_av.frozen import FrozenModel
from llava_av.storage import ObjectStore

VARIABLE_PREFIX = "BACKUP_"
TIERS = (
    (re.compile(r"runs/"), "runs/"),
    (re.compile(r"datasets/[^/]+/refs/"), "datasets/"),
    (re.compile(r"datasets/[^/]+/commits/"), "datasets/"),
    (re.compile(r"datasets/[^/]+/manifests/"), "datasets/"),
    (re.compile(r"datasets/[^/]+/packs/"), "datasets/"),
    (re.compile(r"checkpoints/[^/]+/[^/]+/manifest\.json$"), "checkpoints/"),
    (re.compile(r""), ""),
)
"""Patterns and prefixes of keys, in an order in which objects refer only to objects of later tiers, which
are written first. A snapshot is made in this order, where each tier is listed after the previous one is
copied, and restored in the reverse order; so neither ever refers to a missing object."""


class BackupError(UserError):
    """A snapshot that cannot be made, found or verified."""


class Content(FrozenModel):
    """Content, identified by its hash."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the bytes."""
    size: int = Field(ge=0)
    """Number of bytes."""


class Entry(Content):
    """An object of the bucket."""

    key: str = Field(min_length=1)
    """Key of the object."""
    etag: str
    """Entity tag when it was copied; the content is unchanged as long as the tag is."""


class Snapshot(FrozenModel):
    """A complete snapshot."""

    id: str = Field(pattern=r"^\d{8}T\d{6}Z$")
    """Time of its start."""
    bucket: str
    """Name of the copied bucket."""
    objects: int = Field(ge=0)
    """Number of objects."""
    bytes: int = Field(ge=0)
    """Total size of the objects, including content shared with other snapshots."""
    entries: Content
    """List of its objects, one JSON line each."""
    database: Content | None
    """Dump of MLflow's database, made before the first object was copied; None without a dump."""


def tier_of(key: str) -> int:
    """Return the index of a key's tier in TIERS."""
    return next(number for number, (pattern, _) in enumerate(TIERS) if pattern.match(key))


def content_key(content: Content) -> str:
    """Return the key of content."""
    return f"objects/{content.sha256[:2]}/{content.sha256}"


def snapshot_key(snapshot_id: str) -> str:
    """Return the key of a snapshot."""
    return f"snapshots/{snapshot_id}.json"


def backup_store(environment: Mapping[str, str] | None = None) -> ObjectStore:
    """Return the bucket of snapshots; its variables are those of the store with the prefix `BACKUP_`.

    Raises:
        BackupError: A variable is missing, or they name the bucket itself.
    """
    variables = os.environ if environment is None else environment
    given = {
        name.removeprefix(VARIABLE_PREFIX): value
        for name, value in variables.items()
        if name.startswith(VARIABLE_PREFIX) and value
    }
    needed = ("AWS_ENDPOINT_URL_S3", "LLAVA_AV_BUCKET")
    missing = [VARIABLE_PREFIX + name for name in needed if name not in given]
    if missing:
        raise BackupError(f"no bucket for backups is configured: set {', '.join(missing)} in the environment")
    identity = {name: value for name, value in variables.items() if name.startswith(("AWS_WEB_", "AWS_CONT"))}
    store = ObjectStore.from_env({**identity, **given})
    if (store.endpoint, store.bucket) == (
        variables.get("AWS_ENDPOINT_URL_S3"),
        variables.get("LLAVA_AV_BUCKET"),
    ):
        raise BackupError(f"bucket {store.bucket} at {store.endpoint} cannot be its own backup: name another")
    return store


def list_snapshots(backups: ObjectStore) -> list[Snapshot]:
    """Return all complete snapshots, the oldest first."""
    keys = [one.key for one in backups.list("snapshots/")]
    return [Snapshot.model_validate(backups.get_json(key)) for key in sorted(keys)]


def find_snapshot(backups: ObjectStore, snapshot_id: str = "") -> Snapshot:
    """Return a snapshot by its ID, or the newest one without an ID.

    Raises:
        BackupError: There is no such snapshot.
    """
    if snapshot_id:
        found = backups.find_json(snapshot_key(snapshot_id))
        if found is None:
            raise BackupError(
                f"there is no snapshot {snapshot_id} in {backups.uri('')}; see `llava-av backup list`"
            )
        return Snapshot.model_validate(found)
    snapshots = list_snapshots(backups)
    if not snapshots:
        raise BackupError(f"there is no snapshot in {backups.uri('')} at {backups.endpoint}")
    return snapshots[-1]


def entries_of(backups: ObjectStore, snapshot: Snapshot) -> list[Entry]:
    """Return the objects of a snapshot.

    Raises:
        BackupError: The list is damaged.
    """
    text = backups.get_bytes(content_key(snapshot.entries))
    if hashlib.sha256(text).hexdigest() != snapshot.entries.sha256:
        raise BackupError(
            f"snapshot {snapshot.id} is damaged: its list of objects is altered; use an older snapshot"
        )
    return [Entry.model_validate_json(line) for line in text.splitlines()]


def contents_of(backups: ObjectStore, snapshot: Snapshot) -> list[Content]:
    """Return all content of a snapshot: its list, its database and its objects."""
    dump = [] if snapshot.database is None else [snapshot.database]
    return [snapshot.entries, *dump, *entries_of(backups, snapshot)]
