"""Verification and repair of dataset commits, on a real object store."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from llava_av.datasets.commits import find_commit
from llava_av.datasets.manifest import blob_key
from llava_av.storage import ObjectStore
from tests.dataset_folders import DataCommands, stored_key, write_grey_image

pytestmark = pytest.mark.integration


def result(data: DataCommands, *arguments: str | Path) -> tuple[int, Any]:
    code, output = data.run("verify", *arguments, "--json")
    return code, json.loads(output[output.index("{\n") :])


def key_of(store: ObjectStore, path: str) -> str:
    return stored_key(store, find_commit(store, "clips"), path)


def test_damaged_and_missing_content_is_named_with_its_samples(
    data: DataCommands, clips: Path, store: ObjectStore
) -> None:
    data.text("commit", clips)
    commit = find_commit(store, "clips")
    assert "6 blobs" in data.text("verify", "clips")
    day = store.get_bytes(key_of(store, "day.png"))
    store.put_bytes(key_of(store, "day.png"), day[:-1] + bytes([day[-1] ^ 1]))
    store.delete(key_of(store, "media/bell.wav"))
    store.delete(key_of(store, "held_out.jsonl"))
    code, found = result(data, "clips")
    label = f"clips@{commit.id[:16]}"
    states = {tuple(blob["paths"]): (blob["state"], blob["samples"]) for blob in found["damaged"]}
    assert code == 1
    assert states == {
        (f"{label}:day.png",): ("damaged", [f"{label}:day"]),
        (f"{label}:media/bell.wav",): ("missing", [f"{label}:bell"]),
        (f"{label}:held_out.jsonl",): ("missing", []),
    }
    text = data.error("verify", "--all")
    assert f"needed by {label}:day" in text


def test_a_folder_repairs_what_it_has(
    data: DataCommands, clips: Path, store: ObjectStore, tmp_path: Path
) -> None:
    data.text("commit", clips)
    paths = ("day.png", "media/bell.wav", "held_out.jsonl")
    intact = {path: store.get_bytes(key_of(store, path)) for path in paths}
    store.put_bytes(key_of(store, "day.png"), b"x" * len(intact["day.png"]))
    store.delete(key_of(store, "media/bell.wav"))
    store.delete(key_of(store, "held_out.jsonl"))
    backup = tmp_path / "backup"
    backup.mkdir()
    shutil.copyfile(clips / "day.png", backup / "renamed.bin")
    code, found = result(data, "clips", "--repair", backup)
    assert (code, len(found["repaired"]), len(found["damaged"])) == (1, 1, 2)
    code, found = result(data, "clips", "--repair", clips)
    assert (code, len(found["repaired"]), found["damaged"]) == (0, 2, [])
    assert {path: store.get_bytes(key_of(store, path)) for path in paths} == intact
    data.text("verify", "--all")


def test_a_lost_list_of_files_is_rebuilt_before_its_files_are_verified(
    data: DataCommands, clips: Path, store: ObjectStore
) -> None:
    data.text("commit", clips)
    [files] = find_commit(store, "clips").reader(store).files.ranges
    content, day = store.get_bytes(blob_key(files.sha256)), key_of(store, "day.png")
    store.delete(blob_key(files.sha256))
    store.delete(day)
    code, found = result(data, "clips")
    assert (code, [blob["kind"] for blob in found["damaged"]]) == (1, ["files"])
    assert "from day.png" in found["damaged"][0]["paths"][0]
    assert "--repair" in data.error("ls", "clips")
    code, found = result(data, "clips", "--repair", clips)
    assert (code, len(found["repaired"]), found["damaged"]) == (0, 2, [])
    assert store.get_bytes(blob_key(files.sha256)) == content
    assert store.exists(day)


def test_all_covers_old_commits(data: DataCommands, clips: Path, store: ObjectStore) -> None:
    data.text("commit", clips)
    old = key_of(store, "day.png")
    write_grey_image(clips / "day.png", 3)
    data.text("commit", clips)
    store.delete(old)
    data.text("verify", "clips")
    code, found = result(data, "--all")
    assert (code, found["commits"], [blob["state"] for blob in found["damaged"]]) == (1, 2, ["missing"])
    assert "either a dataset or --all" in data.error("verify")
