"""What a snapshot is, and where it lies.

    objects/<2 hex>/<sha256>    content, shared by all snapshots
    snapshots/<id>.json         which content lists a snapshot's keys; written last

An id is the UTC time of the beginning, so ids sort by age.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from llava_av.errors import UserError
from llava_av.frozen import FrozenModel
from llava_av.storage import ObjectStore

__all__ = [
    "STAGES",
    "BackupError",
    "Content",
    "Entry",
    "Snapshot",
    "backup_store",
    "content_key",
    "contents_of",
    "entries_of",
    "find_snapshot",
    "list_snapshots",
    "snapshot_key",
    "stage_of",
]

VARIABLE_PREFIX = "BACKUP_"
STAGES = (
    (re.compile(r"runs/"), "runs/"),
    (re.compile(r"datasets/[^/]+/refs/"), "datasets/"),
    (re.compile(r"datasets/[^/]+/commits/"), "datasets/"),
    (re.compile(r"datasets/[^/]+/manifests/"), "datasets/"),
    (re.compile(r"checkpoints/[^/]+/[^/]+/manifest\.json$"), "checkpoints/"),
    (re.compile(r""), ""),
)
"""Keys, and their prefix, in an order in which each refers to later ones alone: what refers is written after
what it refers to. A copy is made in this order, each stage listed after the one before is copied, and is
restored in the opposite one; so it never refers to what it lacks."""


class BackupError(UserError):
    """A snapshot cannot be made, found or trusted."""


class Content(FrozenModel):
    """Bytes, by their hash."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the bytes."""
    size: int = Field(ge=0)
    """Number of bytes."""


class Entry(Content):
    """An object of the bucket."""

    key: str = Field(min_length=1)
    """Its key."""
    etag: str
    """Its entity tag when it was copied: while that stays, so does the content."""


class Snapshot(FrozenModel):
    """A whole snapshot."""

    id: str = Field(pattern=r"^\d{8}T\d{6}Z$")
    """When it was begun."""
    bucket: str
    """Bucket that it is of."""
    objects: int = Field(ge=0)
    """Number of its objects."""
    bytes: int = Field(ge=0)
    """Their size; what other snapshots share is counted too."""
    entries: Content
    """The list of its objects, one JSON line each."""
    database: Content | None
    """Dump of MLflow's database, made before the first object was copied; None without one."""


def stage_of(key: str) -> int:
    """Place of a key in STAGES."""
    return next(number for number, (pattern, _) in enumerate(STAGES) if pattern.match(key))


def content_key(content: Content) -> str:
    """Where the bytes lie."""
    return f"objects/{content.sha256[:2]}/{content.sha256}"


def snapshot_key(snapshot_id: str) -> str:
    """Where a snapshot lies."""
    return f"snapshots/{snapshot_id}.json"


def backup_store(environment: Mapping[str, str] | None = None) -> ObjectStore:
    """The bucket for snapshots, by variables as those of the store, with `BACKUP_` before each name.

    Raises:
        BackupError: one is missing, or they name the bucket itself.
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
        raise BackupError(f"no place for backups is set: {', '.join(missing)} missing from the environment")
    identity = {name: value for name, value in variables.items() if name.startswith(("AWS_WEB_", "AWS_CONT"))}
    store = ObjectStore.from_env({**identity, **given})
    if (store.endpoint, store.bucket) == (
        variables.get("AWS_ENDPOINT_URL_S3"),
        variables.get("LLAVA_AV_BUCKET"),
    ):
        raise BackupError(f"bucket {store.bucket} at {store.endpoint} cannot be its own backup: name another")
    return store


def list_snapshots(backups: ObjectStore) -> list[Snapshot]:
    """All whole snapshots, the oldest first."""
    keys = [one.key for one in backups.list("snapshots/")]
    return [Snapshot.model_validate(backups.get_json(key)) for key in sorted(keys)]


def find_snapshot(backups: ObjectStore, snapshot_id: str = "") -> Snapshot:
    """A snapshot by its id, the newest without one.

    Raises:
        BackupError: there is none.
    """
    if snapshot_id:
        found = backups.find_json(snapshot_key(snapshot_id))
        if found is None:
            raise BackupError(
                f"there is no snapshot {snapshot_id} in {backups.uri('')}; see llava-av backup list"
            )
        return Snapshot.model_validate(found)
    snapshots = list_snapshots(backups)
    if not snapshots:
        raise BackupError(f"there is no snapshot in {backups.uri('')} at {backups.endpoint}")
    return snapshots[-1]


def entries_of(backups: ObjectStore, snapshot: Snapshot) -> list[Entry]:
    """What a snapshot holds.

    Raises:
        BackupError: the list is not the one that was written.
    """
    text = backups.get_bytes(content_key(snapshot.entries))
    if hashlib.sha256(text).hexdigest() != snapshot.entries.sha256:
        raise BackupError(
            f"snapshot {snapshot.id} is damaged: its list of objects is another; use an older one"
        )
    lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    return [Entry.model_validate(line) for line in lines]


def contents_of(backups: ObjectStore, snapshot: Snapshot) -> list[Content]:
    """All content that a snapshot needs."""
    dump = [] if snapshot.database is None else [snapshot.database]
    return [snapshot.entries, *dump, *entries_of(backups, snapshot)]
