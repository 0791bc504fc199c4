"""Commits of prefixes in S3, on a real object store."""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from llava_av.datasets.manifest import blob_key
from llava_av.storage import ObjectStore, StoreError
from tests.dataset_folders import DAY, SAMPLES, DataCommands, upload, write_conversations, write_grey_image
from tests.fault_proxy import ALWAYS, fault_proxy
from tests.media_samples import write_image

pytestmark = pytest.mark.integration


@pytest.fixture
def source(store: ObjectStore) -> ObjectStore:
    """Return another bucket of the store."""
    source = store.in_bucket(f"{store.bucket}-media")
    source.ensure_bucket()
    return source


def elsewhere(environment: Mapping[str, str], endpoint: str) -> dict[str, str]:
    """Return an environment with another server for prefixes."""
    keys = {name: value for name, value in environment.items() if name.startswith("AWS_")}
    other = {**keys, "AWS_ENDPOINT_URL_S3": endpoint, "LLAVA_AV_S3_RETRY_S": "3"}
    return {**environment, **{f"LLAVA_AV_SOURCE_{name}": value for name, value in other.items()}}


def test_a_prefix_commits_to_the_same_id_as_its_folder(
    data: DataCommands, clips: Path, source: ObjectStore, store: ObjectStore, tmp_path: Path
) -> None:
    uri = upload(source, clips, "raw/clips")
    first = data.json("commit", uri)
    assert (first["name"], first["unchanged"]) == ("clips", False)
    again = data.json("commit", f"{uri}/")
    assert (again["commit"], again["unchanged"]) == (first["commit"], True)
    local = data.json("commit", clips)
    assert (local["commit"], local["unchanged"]) == (first["commit"], True)
    assert "0 damaged or missing" in data.text("verify", "clips")
    data.text("checkout", "clips", tmp_path / "copy")
    assert (tmp_path / "copy/media/bell.wav").read_bytes() == (clips / "media/bell.wav").read_bytes()


def test_only_new_versions_of_objects_are_committed_again(
    data: DataCommands, clips: Path, source: ObjectStore, tmp_path: Path
) -> None:
    uri = upload(source, clips, "clips")
    first = data.json("commit", uri)["commit"]
    write_grey_image(tmp_path / "day.png", 7)
    source.put_file("clips/day.png", tmp_path / "day.png")
    second = data.json("commit", uri)
    assert data.json("diff", f"clips@{first}", "clips")["files"]["changed"] == ["day.png"]
    [file] = data.json("ls", "clips", "--files", "--pattern", "day.png")
    data.text("checkout", "clips", tmp_path / "copy")
    assert (tmp_path / "copy/day.png").read_bytes() == (tmp_path / "day.png").read_bytes()
    assert second["uploaded_files"] >= 1
    assert file["bytes"] == (tmp_path / "day.png").stat().st_size


def test_objects_sent_in_parts_are_copied(
    data: DataCommands, clips: Path, source: ObjectStore, store: ObjectStore
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (1800, 1800, 3), np.uint8)
    write_image(clips / "large.png", pixels, "png")
    assert (clips / "large.png").stat().st_size > 8 << 20
    write_conversations(clips, [*SAMPLES, {"id": "large", "image": "large.png", "split": "train"}])
    uri = upload(source, clips, "clips")
    commit = data.json("commit", uri)
    [file] = data.json("ls", "clips", "--files", "--pattern", "large.png")
    assert store.sha256(blob_key(file["sha256"])) == file["sha256"]
    assert data.json("commit", clips)["commit"] == commit["commit"]


def test_a_copy_within_the_server_requires_the_entity_tag(source: ObjectStore, store: ObjectStore) -> None:
    source.put_bytes("a b/ä.bin", b"content")
    found = source.find("a b/ä.bin")
    assert found is not None
    assert store.copy_from(source, found.key, found.etag, "copy") == found.etag
    assert store.get_bytes("copy") == b"content"
    with pytest.raises(StoreError, match="replaced"):
        store.copy_from(source, found.key, "0" * 32, "other")
    with pytest.raises(StoreError):
        store.copy_from(source, "absent", found.etag, "other")
    assert not store.exists("other")


def test_keys_that_only_read_the_source_suffice(
    store_environment: Mapping[str, str], clips: Path, source: ObjectStore, tmp_path: Path
) -> None:
    uri = upload(source, clips, "clips")
    with fault_proxy(urlsplit(store_environment["AWS_ENDPOINT_URL_S3"]).netloc) as proxy:
        data = DataCommands({**store_environment, "AWS_ENDPOINT_URL_S3": proxy.url}, tmp_path / "out")
        proxy.only = f"PUT /{source.bucket}/"
        proxy.fail("403", ALWAYS)
        assert not data.json("commit", uri)["unchanged"]
        assert not proxy.met
        # Each object is read once: the blobs are copies within the server.
        proxy.only = f"GET /{source.bucket}/clips/"
        write_grey_image(tmp_path / "day.png", 7)
        source.put_file("clips/day.png", tmp_path / "day.png")
        proxy.fail("slow", ALWAYS)
        assert data.json("commit", uri)["uploaded_files"] >= 1
        media = [request for request in proxy.met if "conversations.jsonl" not in request]
        assert [proxy.met[request] for request in media] == [1]
        proxy.fail(None)
        assert "0 damaged or missing" in data.text("verify", "clips")


def test_a_prefix_on_another_server_is_streamed(
    store_environment: Mapping[str, str], clips: Path, source: ObjectStore, tmp_path: Path
) -> None:
    # The same server under another name.
    port = urlsplit(store_environment["AWS_ENDPOINT_URL_S3"]).port
    data = DataCommands(elsewhere(store_environment, f"http://localhost:{port}"), tmp_path / "out")
    uri = upload(source, clips, "clips")
    commit = data.json("commit", uri)
    assert "0 damaged or missing" in data.text("verify", "clips")
    assert data.json("commit", clips)["commit"] == commit["commit"]
    missing = DataCommands(
        {**store_environment, "LLAVA_AV_SOURCE_AWS_ENDPOINT_URL_S3": "http://x"}, tmp_path / "out"
    )
    assert "AWS_ACCESS_KEY_ID" in missing.error("commit", uri)


def test_objects_are_read_once_and_damage_on_the_way_is_noticed(
    store_environment: Mapping[str, str], clips: Path, source: ObjectStore, tmp_path: Path
) -> None:
    uri = upload(source, clips, "clips")
    with fault_proxy(urlsplit(store_environment["AWS_ENDPOINT_URL_S3"]).netloc) as proxy:
        data = DataCommands(elsewhere(store_environment, proxy.url), tmp_path / "out")
        proxy.only = "day.png"
        proxy.fail("wrong byte")
        commit = data.json("commit", uri)
        assert proxy.met
        proxy.fail("500", ALWAYS)
        again = data.json("commit", uri)
        assert (again["commit"], again["unchanged"]) == (commit["commit"], True)
        assert not proxy.met
        assert "clips/day.png" in data.error("commit", uri, "--rehash")
    assert "0 damaged or missing" in data.text("verify", "clips")
    assert data.json("commit", clips)["commit"] == commit["commit"]


def test_unusable_objects_are_left_out_with_their_names(
    data: DataCommands, clips: Path, source: ObjectStore
) -> None:
    names = ["gone.png", "empty.png", "broken.png", "../day.png", "media/bell.wav"]
    (clips / "empty.png").touch()
    (clips / "broken.png").write_bytes(b"no image")
    write_conversations(clips, [*SAMPLES, *({"id": name, "image": name} for name in names)])
    uri = upload(source, clips, "clips")
    output = data.text("commit", uri, "--max-bad-share", "0.9")
    assert "gone.png: no such object" in output
    assert "empty.png: is empty (0 bytes)" in output
    assert "../day.png: is not a path inside" in output
    assert 'media/bell.wav: is audio without video, but is named under "image"' in " ".join(output.split())
    assert "left out: broken.png" in output
    assert {row["id"] for row in data.json("ls", "clips")} == {one["id"] for one in SAMPLES}
    assert f"of {uri} cannot be used" in " ".join(data.error("commit", uri).split())


def test_prefixes_without_a_dataset_are_reported(
    data: DataCommands, source: ObjectStore, store: ObjectStore, tmp_path: Path
) -> None:
    assert "has no conversations.jsonl" in data.error("commit", source.uri("nothing"))
    assert "give s3://BUCKET/PREFIX" in data.error("commit", "s3://")
    assert "bucket-that-is-not does not exist" in " ".join(
        data.error("commit", "s3://bucket-that-is-not/x").split()
    )
    write_conversations(tmp_path, [DAY])
    uri = upload(source, tmp_path, "one")
    output = " ".join(data.error("commit", uri).split())
    assert f"{uri} has no usable sample" in output
    assert "day.png: no such object" in output
