"""Effects of lost answers, a slow network and interruptions on a real object store."""

import hashlib
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest

from llava_av.datasets.manifest import CommitError, blob_key
from llava_av.storage import ObjectMissing, ObjectStore, StoreError, map_parallel, multipart
from tests.dataset_folders import stored_key
from tests.fault_proxy import ALWAYS, FaultProxy, fault_proxy
from tests.integration.commits.folders import commit, copied, make

pytestmark = pytest.mark.integration


@pytest.fixture
def direct(store_environment: Mapping[str, str]) -> ObjectStore:
    found = ObjectStore.from_env(store_environment)
    found.ensure_bucket()
    return found


@pytest.fixture
def proxy(direct: ObjectStore) -> Iterator[FaultProxy]:
    with fault_proxy(urlsplit(direct.endpoint).netloc) as running:
        yield running


@pytest.fixture
def store(direct: ObjectStore, proxy: FaultProxy) -> ObjectStore:
    return ObjectStore(replace(direct.settings, endpoint=proxy.url, retry_s=60, stall_s=30))


def hasty(store: ObjectStore) -> ObjectStore:
    return ObjectStore(replace(store.settings, retry_s=0.5, stall_s=1))


def boto3_client(store: ObjectStore) -> Any:
    settings = store.settings
    return boto3.client(
        "s3",
        endpoint_url=settings.endpoint,
        aws_access_key_id=settings.access_key,
        aws_secret_access_key=settings.secret_key,
        region_name=settings.region,
    )


def uploads(store: ObjectStore) -> list[str]:
    """Return the keys of incomplete multipart uploads."""
    found = boto3_client(store).list_multipart_uploads(Bucket=store.bucket)
    return [one["Key"] for one in found.get("Uploads", ())]


@pytest.mark.parametrize("kind", ["lost reply", "reset", "500"])
def test_conditional_writes_are_idempotent(store: ObjectStore, proxy: FaultProxy, kind: str) -> None:
    proxy.fail(kind)
    assert store.create("key", b"1")
    proxy.fail(kind)
    assert not store.create("key", b"2")
    _, etag = store.get_with_etag("key")
    proxy.fail(kind)
    assert store.replace("key", b"3", etag)
    proxy.fail(kind)
    assert not store.replace("key", b"4", etag)
    assert store.get_bytes("key") == b"3"


def test_an_equal_existing_object_belongs_to_another_writer(store: ObjectStore) -> None:
    assert store.create("key", b"1")
    assert not store.create("key", b"1")


def test_of_many_creators_whose_answers_are_lost_one_wins(store: ObjectStore, proxy: FaultProxy) -> None:
    proxy.fail("lost reply", attempts=8)
    barrier = threading.Barrier(8)

    def create(number: int) -> bool:
        barrier.wait()
        return store.create("race", str(number).encode())

    won = map_parallel(create, range(8), workers=8)
    assert won.count(True) == 1
    assert store.get_bytes("race") == str(won.index(True)).encode()


def test_an_object_is_deleted_twice(store: ObjectStore, proxy: FaultProxy) -> None:
    store.put_bytes("key", b"1")
    proxy.fail("lost reply")
    store.delete("key")
    assert not store.exists("key")


def test_a_list_continues_after_the_page_that_failed(
    direct: ObjectStore, store: ObjectStore, proxy: FaultProxy
) -> None:
    keys = [f"many/{number:04}" for number in range(1100)]
    map_parallel(lambda key: direct.put_bytes(key, b"x"), keys)
    proxy.fail("500")
    assert [info.key for info in store.list("many/")] == keys


def test_objects_of_several_ranges_and_none(store: ObjectStore, proxy: FaultProxy, tmp_path: Path) -> None:
    content = os.urandom(1 << 20) * 17
    (tmp_path / "in").write_bytes(content)
    proxy.fail("truncated", attempts=2)
    store.put_file("large", tmp_path / "in")
    assert store.get_file("large", tmp_path / "out") == hashlib.sha256(content).hexdigest()
    store.put_bytes("empty", b"")
    proxy.fail("reset")
    assert store.get_bytes("empty") == b""


def test_content_with_another_digest_is_read_once_more(store: ObjectStore, proxy: FaultProxy) -> None:
    content = b"some content"
    digest = hashlib.sha256(content).hexdigest()
    store.put_bytes("there", content)
    proxy.only = "GET"
    proxy.fail("wrong byte")
    assert store.get_content("there", digest) == content
    assert proxy.met
    proxy.fail(None)
    assert store.get_content("there", "0" * 64) is None
    with pytest.raises(ObjectMissing):
        store.get_content("absent", digest)


def test_an_object_that_is_replaced_while_it_is_read_is_never_mixed(
    direct: ObjectStore, store: ObjectStore, proxy: FaultProxy, tmp_path: Path
) -> None:
    for name, byte in (("old", b"o"), ("new", b"n")):
        (tmp_path / name).write_bytes(byte * (17 << 20))
    direct.put_file("large", tmp_path / "old")
    proxy.between = lambda: direct.put_file("large", tmp_path / "new")
    with pytest.raises(StoreError, match=r"s3://.*/large at .* was replaced while it was read"):
        store.get_file("large", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["slow", "stall"])
def test_a_transfer_below_the_floor_is_reported_by_its_key(
    direct: ObjectStore, store: ObjectStore, proxy: FaultProxy, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "in").write_bytes(bytes(9 << 20))
    direct.put_file("there", tmp_path / "in")
    proxy.fail(kind, ALWAYS)
    slow = r"is too slow|does not answer in time|broke the connection"
    with pytest.raises(StoreError, match=rf"^s3://{direct.bucket}/there: .*({slow}).*attempts"):
        hasty(store).get_file("there", tmp_path / "out")
    with pytest.raises(StoreError, match=rf"^s3://{direct.bucket}/new: .*({slow}).*attempts"):
        hasty(store).put_file("new", tmp_path / "in")


def test_a_failed_upload_leaves_nothing_behind(
    direct: ObjectStore, store: ObjectStore, proxy: FaultProxy, tmp_path: Path
) -> None:
    (tmp_path / "in").write_bytes(bytes(9 << 20))
    proxy.fail("wrong byte", ALWAYS)
    with pytest.raises(StoreError, match=rf"^s3://{direct.bucket}/key: "):
        hasty(store).put_file("key", tmp_path / "in")
    assert uploads(direct) == []
    assert not direct.exists("key")


def test_an_upload_of_a_killed_process_is_aborted_by_the_next_one(
    direct: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").write_bytes(bytes(9 << 20))
    for key in ("key", "key2"):
        boto3_client(direct).create_multipart_upload(Bucket=direct.bucket, Key=key)
    direct.put_file("key", tmp_path / "in")
    # One that began just now may be in progress.
    assert sorted(uploads(direct)) == ["key", "key2"]
    monkeypatch.setattr(multipart, "ABANDONED_AFTER", timedelta(0))
    direct.put_file("key", tmp_path / "in")
    assert uploads(direct) == ["key2"]


def test_a_file_that_changes_while_it_is_sent_replaces_and_deletes_nothing(
    direct: ObjectStore, store: ObjectStore, proxy: FaultProxy, tmp_path: Path
) -> None:
    splits, clip = make(tmp_path, count=3), tmp_path / "clips/0.mp4"
    content = bytes(17 << 20)
    clip.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()

    def change() -> None:
        # Another writer stores the content that the file had.
        direct.put_bytes(blob_key(digest), content)
        clip.write_bytes(b"x" + content[1:])

    proxy.between, proxy.only = change, "partNumber="
    with pytest.raises(CommitError, match=r"clips/0\.mp4 changed during the commit"):
        commit(store, tmp_path, splits)
    assert uploads(direct) == []
    assert direct.sha256(blob_key(digest)) == digest
    out = copied(store, commit(store, tmp_path, splits), tmp_path / "out")
    assert (out / "clips/0.mp4").read_bytes() == clip.read_bytes()


@pytest.mark.parametrize("kind", ["500", "reset"])
def test_an_error_of_a_blob_names_the_file_and_the_key(
    direct: ObjectStore, store: ObjectStore, proxy: FaultProxy, tmp_path: Path, kind: str
) -> None:
    made = commit(direct, tmp_path / "in", make(tmp_path / "in", count=3))
    digest = stored_key(direct, made, "clips/0.mp4").rpartition("/")[2]
    proxy.fail(kind, ALWAYS)
    proxy.only = digest
    with pytest.raises(
        StoreError, match=rf"^clips/0\.mp4: s3://{direct.bucket}/blobs/../{digest}: .*attempts"
    ):
        copied(hasty(store), made, tmp_path / "out")
    direct.delete(f"blobs/{digest[:2]}/{digest}")
    with pytest.raises(StoreError, match=rf"^clips/0\.mp4: s3://{direct.bucket}/blobs/../{digest}: "):
        commit(hasty(store), tmp_path / "in", make(tmp_path / "in", count=3), name="other")
