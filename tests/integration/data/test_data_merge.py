"""Unions of dataset commits, on a real object store."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from llava_av.datasets.commits import Commit, find_commit
from llava_av.datasets.committing import commit_dataset
from llava_av.datasets.manifest import blob_key
from llava_av.datasets.media_facts import stored_pending
from llava_av.datasets.merging import write_union
from llava_av.datasets.ranges import sample_line
from llava_av.datasets.reading import content_in_memory
from llava_av.datasets.schema import Sample
from llava_av.storage import ObjectStore
from tests.dataset_folders import (
    BELL,
    DAY,
    NIGHT,
    DataCommands,
    write_conversations,
    write_grey_image,
)

pytestmark = pytest.mark.integration

DUSK = {"id": "dusk", "image": "dusk.png", "split": "train", "kind": "scene_light"}
DAWN = {"id": "dawn", "image": "dawn.png", "split": "held_out", "kind": "scene_light"}


def write_more(folder: Path) -> Path:
    """Write a dataset that shares a training sample with `write_dataset`."""
    for shade, name in ((100, "dusk.png"), (120, "dawn.png"), (200, "day.png")):
        write_grey_image(folder / name, shade)
    write_conversations(folder, [DUSK, DAWN, DAY])
    return folder


@pytest.fixture
def more(tmp_path: Path) -> Path:
    return write_more(tmp_path / "more")


def ids(data: DataCommands, name: str) -> dict[str, str]:
    return {row["id"]: row["split"] for row in data.json("ls", name)}


def test_a_merge_is_the_union_with_its_lineage_and_without_new_media(
    data: DataCommands, store: ObjectStore, clips: Path, more: Path, tmp_path: Path
) -> None:
    for folder in (clips, more):
        data.text("commit", folder)
    sources = [f"{name}@{find_commit(store, name).id}" for name in ("clips", "more")]
    media = {info.key for info in store.list("blobs/")}
    made = data.json("merge", "clips", "more", "--into", "both", "-m", "Light and noise", "--author", "Ada")
    assert made["samples"] == {"held_out": 2, "train": 3}
    assert (made["sources"], made["unchanged"], made["left_out"]) == (sources, False, 0)
    expected = {"night": "held_out", "dawn": "held_out", "day": "train", "dusk": "train", "bell": "train"}
    assert ids(data, "both") == expected
    # Only lists of samples and files are new.
    assert len({info.key for info in store.list("blobs/")} - media) == 3
    [entry] = data.json("log", "both")
    assert (entry["message"], entry["operation"], entry["sources"]) == ("Light and noise", "merge", sources)
    assert f"merge: from {', '.join(sources)}" in data.text("log", "both")
    found = data.json("stats", "both")
    assert (found["unknown"], found["media"], found["counts"]["files"]) == (0, {"image": 4, "audio": 1}, 5)
    assert "0 damaged" in data.text("verify", "both")
    data.text("checkout", "both", tmp_path / "copy")
    assert (tmp_path / "copy/dusk.png").read_bytes() == (more / "dusk.png").read_bytes()
    assert "(unchanged" in data.text("commit", tmp_path / "copy", "--name", "both")
    assert "(unchanged" in data.text("merge", "more", "clips", "--into", "both")


def test_conflicts_are_named_and_prefixes_resolve_them(data: DataCommands, clips: Path, more: Path) -> None:
    write_conversations(more, [{**BELL, "audio": None, "image": "dusk.png"}, DAWN])
    for folder in (clips, more):
        data.text("commit", folder)
    said = data.error("merge", "clips", "more", "--into", "both")
    assert "1 sample of clips@" in said
    assert ": bell; " in said
    assert "--prefix" in said
    write_grey_image(more / "day.png", 7)
    write_conversations(more, [DUSK, DAWN, {**DUSK, "id": "day-2", "image": "day.png"}])
    data.text("commit", more)
    said = data.error("merge", "clips", "more", "--into", "both")
    assert "1 file of clips@" in said
    assert ": day.png; " in said
    assert "does not exist" in data.error("ls", "both")
    data.text("merge", "clips", "more", "--into", "both", "--prefix")
    assert ids(data, "both")["more/day-2"] == ids(data, "both")["clips/day"] == "train"
    paths = {row["path"] for row in data.json("ls", "both", "--files")}
    assert {"clips/day.png", "more/day.png", "clips/media/bell.wav"} <= paths
    assert "0 damaged" in data.text("verify", "both")
    assert "at least 2 commits" in data.error("merge", "clips", "--into", "both")


def test_no_media_get_into_two_splits(data: DataCommands, clips: Path, more: Path) -> None:
    """A copy under another path is the same media."""
    write_grey_image(more / "copy.png", 40)
    night = {**DUSK, "id": "copy", "image": ["copy.png", "dawn.png"], "split": "train"}
    write_conversations(more, [night, DUSK, {**DAWN, "image": "day.png"}])
    for folder in (clips, more):
        data.text("commit", folder)
    for options in ([], ["--prefix"]):
        said = data.error("merge", "clips", "more", "--into", "both", *options)
        # `night.png` is held out by `clips`, and `day.png` by `more`.
        assert "2 samples of clips@" in said
        assert "copy.png, held_out)" in said
        assert "day.png, held_out)" in said
        assert "--leave-out-shared" in said
    made = data.json("merge", "clips", "more", "--into", "both", "--leave-out-shared")
    assert (made["left_out"], made["samples"]) == (2, {"held_out": 2, "train": 2})
    assert ids(data, "both") == {"night": "held_out", "dawn": "held_out", "dusk": "train", "bell": "train"}
    # Files that only the left out samples use are left out too.
    paths = {row["path"] for row in data.json("ls", "both", "--files")}
    assert paths == {"night.png", "day.png", "dusk.png", "media/bell.wav"}
    [entry] = data.json("log", "both")
    assert entry["operation"] == "merge --leave-out-shared"


def test_places_in_packs_and_files_that_were_not_decoded_are_taken_over(
    data: DataCommands, store: ObjectStore, more: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "many"
    names = [f"{number:02}.png" for number in range(80)]
    for shade, name in enumerate(names):
        write_grey_image(folder / name, shade)
    write_conversations(folder, [{"id": name, "image": name} for name in names])
    data.text("commit", folder, "--check", "headers")
    data.text("commit", more)
    # The files are in a pack, not in blobs of their own.
    assert not any(
        store.exists(blob_key(row.sha256)) for row in find_commit(store, "many").reader(store).files
    )
    data.text("merge", "many", "more", "--into", "both", "--prefix")
    data.text("filter", "both", "--into", "part", "--pattern", "many/*")
    for name, files, pending in (("both", 83, 80), ("part", 80, 80)):
        commit = find_commit(store, name)
        assert len(list(commit.reader(store).files)) == files
        found = [digest for digests in stored_pending(store, commit).values() for digest in digests]
        assert len(found) == pending
        assert data.json("stats", name)["unknown"] == 0
        assert "0 damaged" in data.text("verify", name)
    data.text("checkout", "part", tmp_path / "copy")
    assert (tmp_path / "copy/many/07.png").read_bytes() == (folder / "07.png").read_bytes()
    found = data.json("view", "part", "--output", tmp_path / "part.html")
    assert (found["samples"], found["embedded"]) == (80, 80)
    # What only derived commits refer to is kept.
    assert "unused: 0 commits, 0 blobs" in data.text("gc", "--older-than-days", "0")


def test_a_sample_in_another_split_is_a_conflict(data: DataCommands, clips: Path, more: Path) -> None:
    text = {"id": "text", "split": "train"}
    write_conversations(clips, [NIGHT, DAY, text])
    write_conversations(more, [DUSK, DAWN, {**text, "split": "held_out"}])
    for folder in (clips, more):
        data.text("commit", folder)
    assert ": text; " in data.error("merge", "clips", "more", "--into", "both")


def test_ranges_are_cut_as_if_all_samples_were_committed_at_once(store: ObjectStore, tmp_path: Path) -> None:
    samples = [text_sample(number) for number in range(5000)]
    overlapping = (samples[:3500], samples[1500:])
    commits = [committed(store, f"part-{number}", own, tmp_path) for number, own in enumerate(overlapping)]
    merged = write_union(store, "whole", commits).content.manifest()
    lines = {split: list(map(sample_line, own)) for split, own in split_of(samples).items()}
    assert merged == content_in_memory(lines, (), ()).manifest()
    assert min(len(entry.ranges) for entry in merged.splits.values()) > 1


def text_sample(number: int) -> Sample:
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "That."}]
    return Sample.model_validate({"id": f"s{number:05}", "conversations": turns})


def split_of(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    splits: dict[str, list[Sample]] = {"train": [], "held_out": []}
    for sample in samples:
        splits["held_out" if int(sample.id[1:]) % 2 else "train"].append(sample)
    return splits


def committed(store: ObjectStore, name: str, samples: Iterable[Sample], root: Path) -> Commit:
    return commit_dataset(store, name, root, split_of(samples), ())
