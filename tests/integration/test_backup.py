"""Snapshots of a real bucket in another bucket."""

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from llava_av.backup import (
    BackupError,
    backup_store,
    find_snapshot,
    list_snapshots,
    make_snapshot,
    restore_snapshot,
    verify_snapshot,
)
from llava_av.storage import ObjectStore
from tests.commands import called_here

pytestmark = pytest.mark.integration

CHECKPOINT = "checkpoints/0123/step-00000002/"


class Places:
    """A bucket, a bucket for its snapshots, and a third to restore into."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        name = environment["LLAVA_AV_BUCKET"][:40]
        prefixed = {f"BACKUP_{key}": value for key, value in environment.items()}
        self.environment = {**environment, **prefixed, "BACKUP_LLAVA_AV_BUCKET": f"{name}-backup"}
        self.store = ObjectStore.from_env(self.environment)
        self.backups = backup_store(self.environment)
        self.restored = ObjectStore.from_env({**environment, "LLAVA_AV_BUCKET": f"{name}-restored"})
        for store in (self.store, self.backups, self.restored):
            store.ensure_bucket()
        self.folder = folder

    def make(self, **options: Any) -> Any:
        return make_snapshot(self.store, self.backups, self.folder / "work", **options)

    def restore(self, snapshot: Any, **options: Any) -> int:
        return restore_snapshot(self.restored, self.backups, snapshot, self.folder / "work", **options)

    def contents(self) -> set[str]:
        return {one.key for one in self.backups.list("objects/")}


@pytest.fixture
def places(store_environment, tmp_path) -> Places:
    return Places(dict(store_environment), tmp_path)


def content(store: ObjectStore) -> dict[str, bytes]:
    return {one.key: store.get_bytes(one.key) for one in store.list()}


def fill(store: ObjectStore) -> None:
    """Write a dataset commit with a blob, a checkpoint, and a run that names it."""
    blob = "blobs/aa/" + "a" * 64
    store.put_bytes(blob, b"media")
    store.put_json("datasets/d/manifests/m.json", {"files": [blob]})
    store.put_json("datasets/d/commits/c.json", {"manifest": "m"})
    store.put_json("datasets/d/refs/main", {"commit": "c"})
    store.put_bytes(f"{CHECKPOINT}model/weights", b"weights" * 1000)
    store.put_json(f"{CHECKPOINT}manifest.json", {"files": ["model/weights"]})
    store.put_json("runs/0123/train.json", {"checkpoint": CHECKPOINT})


def test_a_bucket_and_its_database_are_restored_byte_for_byte(places: Places) -> None:
    fill(places.store)
    dump = places.folder / "mlflow.dump"
    dump.write_bytes(b"rows")
    made = places.make(database=dump)
    assert find_snapshot(places.backups) == made == find_snapshot(places.backups, made.id)
    back = places.folder / "back.dump"
    assert places.restore(made, database=back) == made.objects == 7
    assert content(places.restored) == content(places.store)
    assert back.read_bytes() == b"rows"
    assert places.restore(made) == 0
    assert verify_snapshot(places.backups, made, places.folder / "work") == 7 + 2


def test_the_next_snapshot_sends_what_changed_and_the_earlier_one_stays(places: Places) -> None:
    fill(places.store)
    first, before = places.make(), content(places.store)
    contents = places.contents()
    places.store.put_json("datasets/d/refs/main", {"commit": "another"})
    second = next_second(places, first)
    # The ref, and the list of objects.
    assert len(places.contents() - contents) == 2
    places.restore(second)
    assert content(places.restored) == content(places.store)
    with pytest.raises(
        BackupError, match=r"1 objects of s3://\S+ may have other content .* datasets/d/refs/main"
    ):
        places.restore(first)
    places.restore(first, overwrite=True)
    assert content(places.restored) == before


def next_second(places: Places, earlier: Any, **options: Any) -> Any:
    """Make a snapshot with another ID than earlier ones; IDs have full seconds."""
    while datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ") == earlier.id:
        pass
    return places.make(**options)


def test_old_snapshots_are_deleted_with_their_own_content(places: Places) -> None:
    fill(places.store)
    first = places.make()
    places.store.put_json("runs/0123/train.json", {"checkpoint": "another"})
    second = next_second(places, first, keep=1)
    assert list_snapshots(places.backups) == [second]
    assert len(places.contents()) == verify_snapshot(places.backups, second, places.folder / "work") == 8
    with pytest.raises(BackupError, match=f"there is no snapshot {first.id}"):
        find_snapshot(places.backups, first.id)


class Busy(ObjectStore):
    """A bucket that others write to and delete from while it is copied."""

    def list(self, prefix: str = "") -> Any:
        yield from super().list(prefix)
        if prefix == "datasets/":
            # A commit that starts and ends after the listing: its blob, its manifest, itself, and the ref.
            self.put_bytes("blobs/bb/" + "b" * 64, b"new")
            for name in ("manifests", "commits", "refs"):
                self.put_json(f"datasets/d/{name}/new.json", {})

    def get_file(self, key: str, path: Path) -> str:
        if key == f"{CHECKPOINT}model/weights":
            self.delete(f"{CHECKPOINT}manifest.json")
            self.delete(key)
        return super().get_file(key, path)


def test_concurrent_writers_leave_no_dangling_reference(places: Places) -> None:
    fill(places.store)
    made = make_snapshot(Busy(places.store.settings), places.backups, places.folder / "work")
    places.restore(made)
    kept = set(content(places.restored))
    # A commit that was made while refs were listed has no ref in the snapshot.
    assert "datasets/d/refs/main" in kept
    assert "datasets/d/refs/new.json" not in kept
    assert "blobs/bb/" + "b" * 64 in kept
    assert not [key for key in kept if key.startswith("checkpoints/")]


def test_damage_is_found_before_anything_is_written(places: Places) -> None:
    fill(places.store)
    made = places.make()
    [weights] = [one.key for one in places.backups.list("objects/") if one.size == 7000]
    places.backups.put_bytes(weights, b"weightz" * 1000)
    with pytest.raises(BackupError, match=r"model/weights\) is altered; use another snapshot"):
        verify_snapshot(places.backups, made, places.folder / "work")
    places.backups.delete(weights)
    with pytest.raises(BackupError, match=r"model/weights\) is missing"):
        places.restore(made)
    assert "runs/0123/train.json" not in content(places.restored)


def test_one_snapshot_at_a_time_until_the_lock_expires(places: Places) -> None:
    fill(places.store)
    for hours, expected in ((1, BackupError), (7, None)):
        since = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=hours)
        places.backups.put_json("lock.json", {"since": since.isoformat()})
        if expected:
            with pytest.raises(
                expected, match=r"another snapshot has been in progress since .* or delete s3://\S+/lock"
            ):
                places.make()
        else:
            places.make()
    assert not places.backups.exists("lock.json")


def test_invalid_buckets_are_refused(places: Places) -> None:
    fill(places.store)
    made = places.make()
    with pytest.raises(BackupError, match="has no database: restore without --database"):
        places.restore(made, database=places.folder / "dump")
    own = {**places.environment, "BACKUP_LLAVA_AV_BUCKET": places.environment["LLAVA_AV_BUCKET"]}
    with pytest.raises(BackupError, match="cannot be its own backup"):
        backup_store(own)
    without = {name: value for name, value in own.items() if not name.startswith("BACKUP_")}
    with pytest.raises(BackupError, match="set BACKUP_AWS_ENDPOINT_URL_S3, BACKUP_LLAVA_AV_BUCKET in"):
        backup_store(without)


def test_commands(places: Places) -> None:
    fill(places.store)

    def run(*arguments: str) -> str:
        code, output = called_here("backup", *arguments, environment=places.environment)
        return f"{code} {output.strip()}"

    assert run("list") == "0 "
    assert run("restore").startswith("1 error: there is no snapshot in s3://")
    made = run("create", "--keep", "3").split()[1]
    assert run("list").endswith(f"{made} {places.store.bucket} (7 objects, 0.0 MiB, without database)")
    assert run("verify", made) == f"0 {made} is complete (8 distinct contents)"
    places.store.delete("runs/0123/train.json")
    listed = json.loads(run("list", "--json")[2:])
    assert [(one["id"], one["objects"], one["database"]) for one in listed] == [(made, 7, None)]
    assert run("restore") == f"0 {made} is restored: 1 of 7 objects written, the others existed"
    assert places.store.exists("runs/0123/train.json")
    assert json.loads(run("restore", "--json")[2:]) == {**listed[0], "written": 0}
    assert json.loads(run("verify", "--json")[2:]) == {**listed[0], "verified": 8}
