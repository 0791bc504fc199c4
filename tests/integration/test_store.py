"""Object store against a real server: SeaweedFS, or the server in LLAVA_AV_TEST_S3_*."""

import hashlib
import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llava_av.storage import (
    ObjectMissing,
    ObjectStore,
    StoreError,
    file_entity_tag,
    file_sha256,
    map_parallel,
)

pytestmark = pytest.mark.integration


@pytest.fixture
def store(store_environment: Mapping[str, str]) -> ObjectStore:
    found = ObjectStore.from_env(store_environment)
    found.ensure_bucket()
    found.ensure_bucket()
    return found


def test_the_probe_is_content_and_leaves_nothing(store: ObjectStore) -> None:
    store.probe()
    assert list(store.list()) == []


def test_a_bucket_that_does_not_exist_is_named(store_environment: Mapping[str, str]) -> None:
    nowhere = ObjectStore.from_env({**store_environment, "LLAVA_AV_BUCKET": "absent"})
    with pytest.raises(StoreError, match=f"bucket {nowhere.bucket} does not exist at"):
        nowhere.get_bytes("key")
    with pytest.raises(StoreError, match="does not exist"):
        list(nowhere.list())


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.text("abz09-_.+= ü/", min_size=1, max_size=30), data=st.binary(max_size=2000))
def test_stored_objects_are_returned_unchanged(
    store: ObjectStore, tmp_path: Path, key: str, data: bytes
) -> None:
    key = "k/" + "/".join(part for part in key.split("/") if part.strip(". ")) + "x"
    store.put_bytes(key, data)
    content, etag = store.get_with_etag(key)
    assert content == data == store.get_bytes(key)
    assert etag
    assert '"' not in etag
    assert store.get_file(key, tmp_path / "deep" / "file") == hashlib.sha256(data).hexdigest()
    assert (tmp_path / "deep" / "file").read_bytes() == data
    (info,) = store.list(key)
    assert (info.key, info.size, info.etag) == (key, len(data), etag)
    assert store.exists(key)
    store.delete(key)
    store.delete(key)
    assert not store.exists(key)


def test_listing_is_sorted_and_whole(store: ObjectStore) -> None:
    keys = [f"many/{number % 7}/{number:04}" for number in range(1100)]
    map_parallel(lambda key: store.put_bytes(key, b"x"), keys)
    store.put_bytes("manyx", b"x")
    assert [info.key for info in store.list("many/")] == sorted(keys)
    assert list(store.list("none/")) == []


def test_large_files_go_in_parts(store: ObjectStore, tmp_path: Path) -> None:
    content = os.urandom(1 << 20) * 13
    (tmp_path / "in").write_bytes(content)
    store.put_file("large", tmp_path / "in")
    assert store.get_file("large", tmp_path / "out") == hashlib.sha256(content).hexdigest()
    assert (tmp_path / "out").read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_a_files_digest_is_that_of_its_bytes(tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    (tmp_path / "a").write_bytes(data)
    assert file_sha256(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_missing_objects(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(ObjectMissing, match=f"s3://{store.bucket}/none does not exist at"):
        store.get_bytes("none")
    with pytest.raises(ObjectMissing):
        store.get_file("none", tmp_path / "file")
    assert list(tmp_path.iterdir()) == []
    assert store.replace("none", b"1", "0" * 32) is False
    assert not store.exists("none")


def test_json(store: ObjectStore) -> None:
    store.put_json("value.json", {"b": [1, None, "ü"], "a": 0.1})
    assert store.get_json("value.json") == {"a": 0.1, "b": [1, None, "ü"]}
    store.put_bytes("value.json", b"{")
    with pytest.raises(StoreError, match=r"value\.json at .* not JSON"):
        store.get_json("value.json")


@pytest.mark.slow
def test_of_sixteen_creators_one_wins(store: ObjectStore) -> None:
    for round_ in range(3):
        key = f"race/{round_}"
        barrier = threading.Barrier(16)

        def create(number: int, key: str = key, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            return store.create(key, str(number).encode())

        won = map_parallel(create, range(16), workers=16)
        assert won.count(True) == 1
        assert store.get_bytes(key) == str(won.index(True)).encode()


def test_concurrent_replaces_lose_no_update(store: ObjectStore) -> None:
    store.create("counter", b"0")

    def count(_: int) -> None:
        while True:
            value, etag = store.get_with_etag("counter")
            if store.replace("counter", str(int(value) + 1).encode(), etag):
                return

    map_parallel(count, range(24), workers=8)
    assert store.get_bytes("counter") == b"24"


def test_create_does_not_overwrite_and_replace_needs_the_present_one(store: ObjectStore) -> None:
    assert store.create("key", b"1")
    assert not store.create("key", b"2")
    _, etag = store.get_with_etag("key")
    assert store.replace("key", b"3", etag)
    assert not store.replace("key", b"4", etag)
    assert store.get_bytes("key") == b"3"


@pytest.mark.parametrize("field", ["access_key", "secret_key"])
def test_wrong_keys_are_one_line(store: ObjectStore, field: str) -> None:
    settings = store.settings
    wrong = ObjectStore(
        replace(settings, access_key="wrong" * 4)
        if field == "access_key"
        else replace(settings, secret_key="wrong" * 8)
    )
    for operation in (wrong.ensure_bucket, wrong.probe, lambda: wrong.put_bytes("k", b"1")):
        with pytest.raises(StoreError, match=f"refuses access to bucket {store.bucket} .*: check AWS_"):
            operation()


@pytest.mark.parametrize("size", [0, 1000, (8 << 20) + 1, 20 << 20])
def test_the_entity_tag_of_a_file_is_known_before_it_is_sent(
    store: ObjectStore, tmp_path: Path, size: int
) -> None:
    (tmp_path / "file").write_bytes(bytes(size))
    store.put_file("file", tmp_path / "file")
    found = store.find("file")
    assert found is not None
    assert (found.size, found.etag) == (size, file_entity_tag(tmp_path / "file"))
    assert store.sha256("file") == file_sha256(tmp_path / "file")
    assert store.find("absent") is None
