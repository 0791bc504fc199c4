"""Lists, tags and copies of dataset commits, on a real object store."""

from pathlib import Path

import pytest

from llava_av.datasets.commits import find_commit
from llava_av.storage import ObjectStore
from tests.dataset_folders import SAMPLES, DataCommands, stored_key, write_conversations, write_grey_image

pytestmark = pytest.mark.integration


def test_samples_and_files_are_listed_by_split_and_pattern(data: DataCommands, clips: Path) -> None:
    data.text("commit", clips)
    assert [row["id"] for row in data.json("ls", "clips")] == ["night", "bell", "day"]
    assert [row["id"] for row in data.json("ls", "clips", "--split", "train")] == ["bell", "day"]
    assert [row["id"] for row in data.json("ls", "clips", "--pattern", "media/*")] == ["bell"]
    [file] = data.json("ls", "clips", "--files", "--pattern", "n*.png")
    assert (file["path"], file["bytes"]) == ("night.png", (clips / "night.png").stat().st_size)
    assert "train  day  scene_light  day.png" in data.text("ls", "clips")
    assert "held_out, train" in data.error("ls", "clips", "--split", "test")


def test_a_tag_names_a_commit_wherever_an_id_can(data: DataCommands, clips: Path, store: ObjectStore) -> None:
    first = data.json("commit", clips)["commit"]
    data.text("tag", "clips", "v1.0")
    write_grey_image(clips / "day.png", 7)
    second = data.json("commit", clips)["commit"]
    assert find_commit(store, "clips@v1.0").id == first
    assert data.json("diff", "clips@v1.0", "clips")["files"]["changed"] == ["day.png"]
    assert "--force" in data.error("tag", "clips", "v1.0")
    assert find_commit(store, "clips@v1.0").id == first
    data.text("tag", "clips", "v1.0", "--force")
    assert data.json("tag", "clips")["v1.0"]["commit"] == second
    assert [one["tags"] for one in data.json("log", "clips")] == [["v1.0"], []]
    assert f"clips@{second} (tags: v1.0)" in data.text("log", "clips")
    assert "did you mean clips@v1.0" in data.error("show", "clips@v1")
    assert "v1.0" in data.error("tag", "clips@v1.1", "--delete")
    data.text("tag", "clips@v1.0", "--delete")
    assert data.json("tag", "clips") == {}
    assert "did you mean clips?" in data.error("show", "clipz")
    assert "'a b'" in data.error("tag", "clips", "a b")


def test_an_id_takes_precedence_over_a_tag(data: DataCommands, clips: Path, store: ObjectStore) -> None:
    first = data.json("commit", clips)["commit"]
    write_grey_image(clips / "day.png", 7)
    second = data.json("commit", clips)["commit"]
    data.text("tag", f"clips@{second}", first[:10])
    assert find_commit(store, f"clips@{first[:10]}").id == first


def test_a_whole_copy_commits_again_to_the_same_id(data: DataCommands, clips: Path, tmp_path: Path) -> None:
    (clips / "broken.png").write_bytes(b"no image")
    write_conversations(clips, [*SAMPLES, {"id": "broken", "image": "broken.png"}])
    first = data.json("commit", clips, "--max-bad-share", "0.5")
    copy = tmp_path / "new" / "copy"
    assert data.json("checkout", "clips", copy)["downloaded"] == 3
    for name in ("night.png", "day.png", "media/bell.wav"):
        assert (copy / name).read_bytes() == (clips / name).read_bytes()
    assert not (copy / "broken.png").exists()
    assert data.json("status", copy, "--name", "clips")["commits"] is False
    again = data.json("commit", copy, "--name", "clips")
    assert (again["commit"], again["unchanged"]) == (first["commit"], True)
    assert data.json("checkout", "clips", copy)["downloaded"] == 0
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_a_part_is_copied_by_split_pattern_or_sample(data: DataCommands, clips: Path, tmp_path: Path) -> None:
    data.text("commit", clips)
    for number, (arguments, names) in enumerate(
        (
            (("--split", "held_out"), {"night.png"}),
            (("--pattern", "media/*"), {"media/bell.wav"}),
            (("--sample", "day", "--sample", "bell"), {"day.png", "media/bell.wav"}),
        )
    ):
        copy = tmp_path / f"part-{number}"
        data.text("checkout", "clips", copy, *arguments)
        found = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}
        assert found == names | {"conversations.jsonl", ".llava-av.json"}
        assert (copy / "conversations.jsonl").read_text().count("\n") == len(names)
    assert "'dusk'" in data.error("checkout", "clips", tmp_path / "none", "--sample", "dusk")
    assert not (tmp_path / "none").exists()


def test_other_content_is_replaced_only_by_force(data: DataCommands, clips: Path, tmp_path: Path) -> None:
    data.text("commit", clips)
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "day.png").write_bytes(b"mine")
    (copy / "notes.txt").write_bytes(b"mine too")
    said = data.error("checkout", "clips", copy)
    assert "day.png" in said
    assert "--force" in said
    assert {path.name for path in copy.iterdir()} == {"day.png", "notes.txt"}
    data.text("checkout", "clips", copy, "--force")
    assert (copy / "day.png").read_bytes() == (clips / "day.png").read_bytes()
    assert (copy / "notes.txt").read_bytes() == b"mine too"


def test_a_copy_with_lost_or_damaged_content_does_not_appear(
    data: DataCommands, clips: Path, tmp_path: Path, store: ObjectStore
) -> None:
    data.text("commit", clips)
    key = stored_key(store, find_commit(store, "clips"), "day.png")
    store.put_bytes(key, b"flipped")
    assert "day.png is damaged" in data.error("checkout", "clips", tmp_path / "copy")
    store.delete(key)
    assert "day.png is lost" in data.error("checkout", "clips", tmp_path / "copy")
    assert not [path for path in tmp_path.iterdir() if "copy" in path.name]


def test_a_copy_does_not_follow_links_out_of_its_folder(
    data: DataCommands, clips: Path, tmp_path: Path
) -> None:
    data.text("commit", clips)
    (tmp_path / "outside").mkdir()
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "media").symlink_to(tmp_path / "outside")
    assert "media/bell.wav" in data.error("checkout", "clips", tmp_path / "copy", "--force")
    assert list((tmp_path / "outside").iterdir()) == []


def test_an_empty_folder_can_be_filled_from_within(
    data: DataCommands, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.text("commit", clips)
    (tmp_path / "copy").mkdir()
    monkeypatch.chdir(tmp_path / "copy")
    data.text("checkout", "clips", ".")
    assert (tmp_path / "copy/day.png").read_bytes() == (clips / "day.png").read_bytes()
