"""Commits of a user's folder: names, splits, and samples that are left out."""

import json
import re
import shutil
from pathlib import Path

import pytest

from llava_av.cli.data import show
from llava_av.datasets.commits import find_commit
from llava_av.datasets.committing import commit_dataset
from llava_av.datasets.contents import read_samples
from llava_av.datasets.sources.folder import read_folder
from llava_av.datasets.sources.rows import DatasetError
from llava_av.datasets.split import SplitError
from llava_av.errors import printable
from llava_av.recipe import DataRecipe
from llava_av.storage import ObjectStore
from llava_av.workflows.commit_data import commit_folder
from tests.media_samples import click, write_grey_clip

pytestmark = pytest.mark.integration


def _rewrite(folder: Path, **more: object) -> list[dict]:
    """Add keys to every line of a folder."""
    path = folder / "conversations.jsonl"
    lines = [json.loads(line) | more for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return lines


def test_kinds_and_choices_of_a_folder_are_kept(store: ObjectStore, clips: Path, tmp_path: Path) -> None:
    _rewrite(clips, kind="scene_x", choices=["grey", "red"])
    commit = commit_folder(store, clips, "", DataRecipe(held_out_share=0.5))
    train, held_out = (read_samples(commit.reader(store), split) for split in ("train", "held_out"))
    assert {(one.kind, one.choices) for one in (*train, *held_out)} == {("scene_x", ("grey", "red"))}
    assert len({one.video for one in held_out}) == 1
    with pytest.raises(DatasetError, match="demonstration"):
        commit_folder(store, clips, "demo-2x1-seed0", DataRecipe())


def test_sound_that_a_recipe_leaves_out_is_told(
    store: ObjectStore, clips: Path, caplog: pytest.LogCaptureFixture
) -> None:
    commit_folder(store, clips, "", DataRecipe(), max_audio_s=10)
    assert "max_audio_s" not in caplog.text
    commit_folder(store, clips, "", DataRecipe(), max_audio_s=0.25)
    assert re.search(r"2 files .*media\.max_audio_s=0\.25", caplog.text)


def test_names_are_shown_as_one_safe_line(
    store: ObjectStore,
    clips: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    evil = "a\n\x1b[2J\u202e.mp4"
    line = json.loads((clips / "conversations.jsonl").read_text().splitlines()[0])
    with (clips / "conversations.jsonl").open("a") as file:
        file.write(json.dumps({**line, "id": "evil", "video": evil}) + "\n")
    commit = commit_folder(store, clips, "", DataRecipe(max_bad_share=0.5, held_out_share=0.5))
    assert [bad.file for bad in commit.manifest.quarantined] == [evil]
    show(f"{commit.name}@{commit.id}", output_dir=tmp_path)
    for said in (capsys.readouterr().out, caplog.text):
        assert said.count("left out: a\\n\\x1b[2J\\u202e.mp4: no such file") == 1
        assert printable(said.replace("\n", "")) == said.replace("\n", "")


@pytest.mark.parametrize(("allowed", "refused"), [(0.2, False), (0.19, True)])
def test_share_of_bad_samples_decides(store: ObjectStore, clips: Path, allowed: float, refused: bool) -> None:
    with (clips / "conversations.jsonl").open("a") as file:
        file.write("{not json\n")
    data = DataRecipe(max_bad_share=allowed, held_out_share=0.5)
    if refused:
        with pytest.raises(DatasetError, match=r"1 of 5 samples .* \(20%\).*conversations.jsonl:5"):
            commit_folder(store, clips, "", data)
        assert list(store.list("blobs/")) == []
    else:
        commit = commit_folder(store, clips, "", data)
        assert [bad.file for bad in commit.manifest.quarantined] == ["conversations.jsonl:5"]


def test_split_of_the_lines_themselves_wins_and_is_no_part_of_the_commit(
    store: ObjectStore, clips: Path, tmp_path: Path
) -> None:
    lines = _rewrite(clips)
    stated = [line | {"split": "test" if line["video"] == "b.mp4" else "train"} for line in lines]
    (clips / "conversations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in stated))
    commit = commit_folder(store, clips, "", DataRecipe())
    held_out, train = (read_samples(commit.reader(store), split) for split in ("held_out", "train"))
    assert [sample.id for sample in held_out] == ["sample-2", "sample-3"]
    assert {sample.split for sample in train} == {None}
    stated[0]["split"] = "held_out"
    (clips / "conversations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in stated))
    with pytest.raises(SplitError, match=r"'sample-1' with split train and sample 'sample-0' .*a\.mp4"):
        commit_folder(store, clips, "", DataRecipe())
    assert commit_folder(store, clips, "", DataRecipe(), allow_shared_media=True).parent == commit.id


def test_existing_commits_keep_their_split_and_moves_are_told(
    store: ObjectStore, clips: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = DataRecipe(held_out_share=0.5)
    samples = read_folder(clips).samples
    # As the split by sample ID would have it, whatever clip they are about.
    leaky = {"train": samples[:1] + samples[2:3], "held_out": samples[1:2] + samples[3:]}
    old = commit_dataset(store, "my-clips", clips, leaky, ())
    new = commit_folder(store, clips, "", data)
    assert new.parent == old.id
    assert "moved to held_out" in caplog.text
    caplog.clear()
    kept = find_commit(store, f"my-clips@{old.id}").reader(store)
    assert [sample.id for sample in read_samples(kept, "held_out")] == ["sample-1", "sample-3"]
    assert commit_folder(store, clips, "", data).unchanged
    assert "moved" not in caplog.text


@pytest.mark.parametrize("name", ["会議", "映像", "---"])
def test_a_folder_whose_name_leaves_nothing_needs_a_name(store: ObjectStore, clips: Path, name: str) -> None:
    folder = clips.rename(clips.parent / name)
    with pytest.raises(DatasetError, match=rf"cannot derive a dataset name from .*{name}.*--name"):
        commit_folder(store, folder, "", DataRecipe())
    assert commit_folder(store, folder, "meetings", DataRecipe()).name == "meetings"


def test_unrelated_folders_never_share_a_derived_name(
    store: ObjectStore, clips: Path, tmp_path: Path
) -> None:
    first = commit_folder(store, clips, "", DataRecipe())
    other = tmp_path / "elsewhere" / "my_clips"
    shutil.copytree(clips, other)
    write_grey_clip(other / "a.mp4", click(1.5))
    assert commit_folder(store, other, "", DataRecipe()).parent == first.id
    turns = [{"from": "human", "value": "Is it?"}, {"from": "gpt", "value": "yes"}]
    _rewrite(other, conversations=turns)
    for name, at_s in (("a", 1.7), ("b", 1.8)):
        write_grey_clip(other / f"{name}.mp4", click(at_s))
    with pytest.raises(DatasetError, match=r"my-clips exists and has no media file .* in common.*--name"):
        commit_folder(store, other, "", DataRecipe())
    assert commit_folder(store, other, "my-clips", DataRecipe()).name == "my-clips"
