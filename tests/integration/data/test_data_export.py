"""Exports of commits to WebDataset tars and Parquet files, and the way back, on a real object store."""

import hashlib
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from llava_av.cli.app import app
from llava_av.datasets.commits import find_commit
from llava_av.datasets.exports.exporting import INDEX, ExportFormat, export
from llava_av.datasets.manifest import blob_key
from llava_av.storage import ObjectStore
from tests.dataset_folders import SAMPLES, DataCommands, write_conversations
from tests.media_samples import click, write_grey_clip, write_image

pytestmark = pytest.mark.integration

ALL_KINDS = (
    *SAMPLES,
    {
        "id": "a.b/c",
        "image": ["day.png", "night.png", "day.png"],
        "audio": "media/bell.wav",
        "split": "train",
    },
    {"id": "clip", "video": "clip.mp4", "use_audio": False, "choices": ["It.", "Other"], "split": "train"},
    {"id": "text", "split": "train"},
    {"id": "bare", "image": "bare", "split": "train"},
)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def converted(source: Path, target: Path) -> None:
    result = CliRunner().invoke(app, ["data", "convert", str(source), str(target)])
    assert result.exit_code == 0, result.output


@pytest.fixture
def every_kind(clips: Path) -> Path:
    """Return a folder with all kinds of media; samples that share media are in one split."""
    write_grey_clip(clips / "clip.mp4", click(1.0))
    write_image(clips / "bare", np.full((8, 16, 3), 90, np.uint8), "png")
    write_conversations(clips, [{**one, "split": "train"} for one in ALL_KINDS if one["id"] != "night"])
    with (clips / "conversations.jsonl").open("a") as file:
        turns = [{"from": "human", "value": "Alone?"}, {"from": "gpt", "value": "Yes."}]
        file.write(json.dumps({"id": "alone", "split": "held_out", "conversations": turns}) + "\n")
    return clips


@pytest.mark.parametrize("form", ["webdataset", "parquet"])
def test_an_export_converts_and_commits_again_to_the_same_id(
    data: DataCommands, every_kind: Path, tmp_path: Path, form: ExportFormat
) -> None:
    first = data.json("commit", every_kind)
    shards = tmp_path / "shards"
    found = data.json("export", "clips", shards, "--format", form)
    assert (found["samples"], found["shards"], found["commit"]) == (7, 2, first["commit"])
    data.text("export", f"clips@{first['commit'][:12]}", tmp_path / "again", "--format", form)
    assert digests(shards) == digests(tmp_path / "again")
    index = json.loads((shards / INDEX).read_text())
    assert index["commit"] == first["commit"]
    assert {one["file"]: one["samples"] for one in index["shards"]} == {
        path.name: 6 if path.name.startswith("train") else 1
        for path in shards.iterdir()
        if path.name != INDEX
    }
    copy = tmp_path / "copy"
    converted(shards, copy / "conversations.jsonl")
    again = data.json("commit", copy, "--name", "clips")
    assert (again["commit"], again["unchanged"]) == (first["commit"], True)


def test_members_and_columns_of_exports(data: DataCommands, every_kind: Path, tmp_path: Path) -> None:
    data.text("commit", every_kind)
    data.text("export", "clips", tmp_path / "tars", "--format", "webdataset", "--split", "train")
    assert {path.name for path in (tmp_path / "tars").iterdir()} == {"train-00000.tar", INDEX}
    with tarfile.open(tmp_path / "tars/train-00000.tar") as tar:
        names = tar.getnames()
        assert all((one.mtime, one.uid, one.uname) == (0, 0, "") for one in tar.getmembers())
    # Sorted by ID: a.b/c, bare, bell, clip, day, text.
    assert names[:4] == ["000000000.json", "000000000.0.png", "000000000.1.png", "000000000.wav"]
    assert names[4:8] == ["000000001.json", "000000001.image", "000000002.json", "000000002.wav"]
    data.text("export", "clips", tmp_path / "table", "--format", "parquet", "--pattern", "*.mp4")
    [row] = pq.read_table(tmp_path / "table/train-00000.parquet").to_pylist()
    assert row["video"] == [{"bytes": (every_kind / "clip.mp4").read_bytes(), "path": "clip.mp4"}]
    assert (row["id"], row["use_audio"], row["choices"]) == ("clip", False, ["It.", "Other"])


@pytest.mark.parametrize("form", ["webdataset", "parquet"])
def test_shards_have_a_bounded_size(
    data: DataCommands, clips: Path, tmp_path: Path, store: ObjectStore, form: ExportFormat
) -> None:
    noise = np.random.default_rng(0)
    names = [f"noise-{number}.png" for number in range(9)]
    for name in names:
        write_image(clips / name, noise.integers(0, 255, (32, 64, 3), np.uint8), "png")
    write_conversations(clips, [*SAMPLES, *({"id": one, "image": one, "split": "train"} for one in names)])
    data.text("commit", clips)
    folder = tmp_path / "shards"
    found = export(store, find_commit(store, "clips"), folder, form, shard_bytes=40_000)
    shards = [path for path in folder.iterdir() if path.name != INDEX]
    assert found.shards == len(shards) >= 3
    assert max(path.stat().st_size for path in shards) <= 40_000 + tarfile.RECORDSIZE
    converted(folder, tmp_path / "copy/conversations.jsonl")
    assert data.json("commit", tmp_path / "copy", "--name", "clips")["unchanged"]


def test_a_failed_export_continues_and_appears_whole(
    data: DataCommands, clips: Path, tmp_path: Path, store: ObjectStore
) -> None:
    data.text("commit", clips)
    [file] = data.json("ls", "clips", "--files", "--pattern", "day.png")
    key = blob_key(file["sha256"])
    content = store.get_bytes(key)
    arguments = ("export", "clips", tmp_path / "shards", "--format", "webdataset")
    store.put_bytes(key, b"flipped")
    assert "day.png is damaged" in data.error(*arguments)
    store.delete(key)
    assert "day.png is lost" in data.error(*arguments)
    assert not (tmp_path / "shards").exists()
    [part] = tmp_path.glob(".shards.*.partial")
    (part / ".train-00000.tar.0.partial").write_bytes(b"of a killed export")
    store.put_bytes(key, content)
    assert data.json(*arguments)["reused"] == 1
    names = {"held_out-00000.tar", "train-00000.tar", INDEX}
    assert {path.name for path in (tmp_path / "shards").iterdir()} == names
    assert not list(tmp_path.glob(".shards.*"))
    assert "is not a new folder" in data.error(*arguments)


def test_what_cannot_be_exported_is_named(data: DataCommands, clips: Path, tmp_path: Path) -> None:
    data.text("commit", clips)
    code, output = data.run("export", "clips", tmp_path / "x", "--format", "csv")
    assert (code, "webdataset" in output) == (2, True)
    assert "has no split 'test'" in data.error(
        "export", "clips", tmp_path / "x", "--format", "parquet", "--split", "test"
    )
    assert "did you mean clips" in data.error("export", "clipz", tmp_path / "x", "--format", "parquet")
    assert not list(tmp_path.glob("*x*"))
