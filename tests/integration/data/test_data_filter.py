"""Subsets of dataset commits as commits of their own, on a real object store."""

from pathlib import Path

import numpy as np
import pytest

from llava_av.datasets.commits import find_commit
from llava_av.datasets.committing import commit_dataset
from llava_av.datasets.filtering import Conditions, write_subset
from llava_av.datasets.media_facts import media_facts_keys
from llava_av.datasets.ranges import sample_line
from llava_av.datasets.reading import content_in_memory
from llava_av.datasets.schema import Sample, parse_stored
from llava_av.storage import ObjectStore
from tests.dataset_folders import BELL, DAY, NIGHT, DataCommands, line, write_conversations, write_dataset
from tests.media_samples import RATE_HZ, click, write_audio, write_grey_clip

pytestmark = pytest.mark.integration


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = write_dataset(tmp_path / "clips")
    write_grey_clip(folder / "grey.mp4", click(0.5))
    write_grey_clip(folder / "silent.mp4")
    write_audio(folder / "long.wav", np.zeros((1, 5 * RATE_HZ), np.float32), RATE_HZ, "pcm_s16le")
    more = [
        {"id": "heard", "video": "grey.mp4", "split": "train", "kind": "joint_count"},
        {"id": "both", "video": "grey.mp4", "audio": "long.wav", "split": "train", "kind": "joint_side"},
        {"id": "silent", "video": "silent.mp4", "split": "held_out", "kind": "visual"},
        {"id": "text", "split": "train"},
    ]
    write_conversations(folder, [NIGHT, DAY, BELL, *more])
    with (folder / "conversations.jsonl").open("a") as file:
        file.write(line({"id": "bad", "video": "lost.mp4"}))
    return folder


CASES = (
    (Conditions(split="held_out"), "--split held_out", "night silent"),
    (Conditions(pattern="*.mp4"), "--pattern *.mp4", "both heard silent"),
    (Conditions(pattern="*.mp4", split="train"), "--split train --pattern *.mp4", "both heard"),
    (Conditions(kind="joint_count"), "--kind joint_count", "heard"),
    (Conditions(kind="joint"), "--kind joint", "both heard"),
    (Conditions(modalities="video+audio"), "--modalities video+audio", "both heard"),
    (Conditions(modalities="video"), "--modalities video", "silent"),
    (Conditions(modalities="text"), "--modalities text", "text"),
    (Conditions(min_duration_s=1.5), "--min-duration 1.5", "both heard silent"),
    (Conditions(max_duration_s=1.5), "--max-duration 1.5", "bell"),
    (Conditions(min_duration_s=1, max_duration_s=3), "--min-duration 1 --max-duration 3", "heard silent"),
    (Conditions(), "", "bell both day heard night silent text"),
)


def test_a_part_has_the_samples_that_meet_every_condition_and_their_files(
    data: DataCommands, store: ObjectStore, clips: Path
) -> None:
    data.text("commit", clips, "--max-bad-share", "0.5")
    commit = find_commit(store, "clips")
    whole = commit.reader(store)
    lines = {(split, line) for split in whole.splits for line in whole.samples(split)}
    for conditions, options, expected in CASES:
        assert str(conditions) == options
        part = write_subset(store, "part", commit, conditions)
        found = {(split, line) for split in part.splits for line in part.samples(split)}
        assert found <= lines, options
        assert sorted(line.id for _, line in found) == expected.split(), options
        paths = [path for _, line in found for path in parse_stored(line.text, 1).media]
        assert {row.path for row in part.files} == set(paths), options
        assert len(part.quarantined) == (0 if options else 1)


def test_a_part_has_the_properties_of_its_media_and_can_be_used_as_any_commit(
    data: DataCommands, store: ObjectStore, clips: Path, tmp_path: Path
) -> None:
    data.text("commit", clips, "--max-bad-share", "0.5")
    blobs = {info.key for info in store.list("blobs/")}
    given = ("filter", "clips", "--into", "part", "--kind", "joint", "-m", "Joint", "--author", "Ada")
    made = data.json(*given)
    assert (made["name"], made["parent"], made["samples"]) == ("part", None, {"train": 2})
    assert len({info.key for info in store.list("blobs/")} - blobs) == 2
    found = data.json("stats", "part")
    assert (found["unknown"], found["media"]) == (0, {"audio": 1, "video": 1})
    assert f"filter --kind joint: from {made['sources'][0]}" in data.text("log", "part")
    assert "0 damaged" in data.text("verify", "part")
    data.text("checkout", "part", tmp_path / "copy")
    assert (tmp_path / "copy/long.wav").read_bytes() == (clips / "long.wav").read_bytes()
    assert data.json(*given)["unchanged"] is True
    # The next subset of the same name is its next version.
    assert data.json("filter", "clips", "--into", "part", "--kind", "noise")["parent"] == made["commit"]
    # What was filtered out can be merged again.
    assert data.json("merge", "clips", "part", "--into", "clips")["samples"] == {"held_out": 2, "train": 5}


def test_a_filter_names_what_does_not_exist(data: DataCommands, store: ObjectStore, clips: Path) -> None:
    data.text("commit", clips, "--max-bad-share", "0.5")
    for option, value, named in (
        ("--split", "x", "held_out, train"),
        ("--kind", "x", "all, joint_count, joint_side, noise, scene_light, visual"),
        ("--pattern", "x/*", "--pattern x/*"),
        ("--min-duration", "60", "--min-duration 60"),
    ):
        assert named in data.error("filter", "clips", "--into", "part", option, value)
    assert "reserved" in data.error("filter", "clips", "--into", "demo-2x1-seed0")
    [key] = media_facts_keys(find_commit(store, "clips"))
    store.delete(key)
    said = data.error("filter", "clips", "--into", "part", "--min-duration", "1")
    assert "silent.mp4" in said
    assert "commit the folder again" in said
    # Other conditions need no properties, which stay unknown.
    data.text("filter", "clips", "--into", "part", "--kind", "joint")
    assert data.json("stats", "part")["unknown"] == 2


def test_ranges_are_cut_as_if_the_part_were_committed_at_once(store: ObjectStore, tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "That."}]
    samples = [
        Sample.model_validate({"id": f"s{n:05}", "conversations": turns, "kind": f"{'ab'[n % 3 > 0]}_x"})
        for n in range(6000)
    ]
    commit = commit_dataset(store, "whole", tmp_path, {"train": samples, "held_out": ()}, ())
    made = write_subset(store, "part", commit, Conditions(kind="b")).manifest()
    kept = [sample_line(sample) for sample in samples if sample.kind == "b_x"]
    assert made == content_in_memory({"train": kept}, (), ()).manifest()
    assert len(made.splits["train"].ranges) > 1
