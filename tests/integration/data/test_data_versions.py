"""Commands of `llava-av data` about versions of a dataset, on a real object store."""

from pathlib import Path

import pytest

from llava_av.datasets.commits import find_commit, read_head
from llava_av.datasets.committing import commit_dataset
from llava_av.datasets.history import history_key
from llava_av.datasets.media_facts import media_facts_keys
from llava_av.datasets.sources.folder import read_folder
from llava_av.datasets.split import split_samples
from llava_av.storage import ObjectStore
from llava_av.workflows.commit_records import recording
from llava_av.workflows.runtime.author import author
from tests.dataset_folders import (
    DAY,
    NIGHT,
    SAMPLES,
    DataCommands,
    write_conversations,
    write_dataset,
    write_grey_image,
)

pytestmark = pytest.mark.integration


def test_the_log_has_message_author_and_counts(data: DataCommands, clips: Path) -> None:
    first = data.json("commit", clips, "-m", "First clips", "--author", "Ada <ada@example.org>")
    write_grey_image(clips / "day.png", 99)
    second = data.json("commit", clips, "--message", "Brighter\nday", "--author", "Grace")
    newest, oldest = data.json("log", "clips")
    assert (newest["commit"], newest["parent"]) == (second["commit"], first["commit"])
    assert (newest["author"], newest["message"]) == ("Grace", "Brighter\nday")
    assert (oldest["author"], oldest["message"]) == ("Ada <ada@example.org>", "First clips")
    assert (oldest["samples"], oldest["files"]) == ({"train": 2, "held_out": 1}, 5)
    text = data.text("log", "clips")
    assert text.index("Brighter") < text.index("First clips")
    assert "1 held_out, 2 train; 5 files" in text


def test_message_and_author_do_not_change_the_id_of_a_commit(
    data: DataCommands, clips: Path, store: ObjectStore
) -> None:
    first = data.json("commit", clips, "-m", "One", "--author", "Ada")
    again = data.json("commit", clips, "-m", "Two", "--author", "Grace")
    assert (again["commit"], again["unchanged"]) == (first["commit"], True)
    [logged] = data.json("log", "clips")
    assert logged["message"] == "One"
    # As an earlier version, which had no history, left it.
    store.delete(history_key("clips", first["commit"]))
    assert "author unknown" in data.text("log", "clips")
    assert data.json("log", "clips")[0]["author"] is None


def test_the_author_is_gits_user(
    data: DataCommands, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gitconfig").write_text("[user]\nname = Ada\nemail = ada@example.org\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.chdir(tmp_path)
    data.json("commit", clips)
    assert data.json("log", "clips")[0]["author"] == "Ada <ada@example.org>"
    (tmp_path / "gitconfig").write_bytes(b"[user]\nname = Grace\nname = Ada\nsigningkey = \xe9\n")
    assert author() == "Ada"


def test_a_commit_that_was_not_finished_has_the_record_of_the_writer_that_finished_it(
    data: DataCommands, clips: Path, store: ObjectStore
) -> None:
    made = data.json("commit", clips, "-m", "Killed before the ref", "--author", "Ada")
    store.delete("datasets/clips/refs/main")
    again = data.json("commit", clips, "-m", "Finished", "--author", "Grace")
    assert again["commit"] == made["commit"] == find_commit(store, "clips").id
    assert [one["message"] for one in data.json("log", "clips")] == ["Finished"]
    shown = data.json("show", "clips")
    assert (shown["commit"], sorted(shown["files"])) == (
        made["commit"],
        ["day.png", "media/bell.wav", "night.png"],
    )
    assert shown["splits"]["train"] == {"file": "train.jsonl", "samples": 2}


def test_the_difference_names_samples_and_files(data: DataCommands, clips: Path) -> None:
    data.text("commit", clips)
    write_grey_image(clips / "dusk.png", 90)
    write_grey_image(clips / "day.png", 201)
    dusk = {"id": "dusk", "image": "dusk.png", "split": "train", "kind": "scene_light"}
    write_conversations(clips, [{**NIGHT, "split": "train"}, {**DAY, "split": "held_out"}, dusk])
    status = data.json("status", clips)
    assert status["commits"]
    assert data.json("log", "clips")[0]["samples"] == {"held_out": 1, "train": 2}
    first = status["newest"]
    second = data.json("commit", clips)["commit"]
    found = data.json("diff", f"clips@{first}", "clips")
    assert found["samples"] == {"added": ["dusk"], "removed": ["bell"], "changed": ["day", "night"]}
    assert found["files"] == {"added": ["dusk.png"], "removed": ["media/bell.wav"], "changed": ["day.png"]}
    assert found["before"]["kinds"] == {"noise": 1, "scene_light": 2}
    assert found["after"]["splits"] == {"held_out": 1, "train": 2}
    assert found["before"]["hours"] == pytest.approx(0.5 / 3600, rel=0.01)
    assert (found["after"]["files"], found["after"]["hours"]) == (3, 0)
    assert {key: status[key] for key in ("samples", "files", "before", "after")} == {
        key: found[key] for key in ("samples", "files", "before", "after")
    }
    text = data.text("diff", f"clips@{first[:8]}", f"clips@{second[:8]}")
    assert "+ dusk" in text
    assert "kind noise: 1 -> 0 samples" in text


def test_the_status_uploads_nothing(data: DataCommands, clips: Path, store: ObjectStore) -> None:
    assert "no commit yet" in data.text("status", clips)
    assert list(store.list()) == []
    data.text("commit", clips)
    before = list(store.list())
    assert data.json("status", clips)["commits"] is False
    (clips / "day.png").write_bytes(b"no image")
    status = data.json("status", clips)
    assert (status["refused"], status["left_out"][0]["file"]) == (True, "day.png")
    assert status["samples"]["removed"] == ["day"]
    assert list(store.list()) == before
    assert "would be refused" in data.text("status", clips)


def test_hours_of_an_earlier_version_are_unknown(data: DataCommands, clips: Path, store: ObjectStore) -> None:
    data.text("commit", clips)
    [key] = media_facts_keys(find_commit(store, "clips"))
    store.delete(key)
    assert data.json("diff", "clips", "clips")["after"]["hours"] is None
    data.text("commit", clips)
    assert data.json("diff", "clips", "clips")["after"]["hours"] is not None


def test_a_rebased_commit_has_the_records_of_both_writers(
    data: DataCommands, clips: Path, store: ObjectStore, tmp_path: Path
) -> None:
    data.text("commit", clips)
    head = read_head(store, "clips")
    other = write_dataset(tmp_path / "other")
    for folder, name, shade in ((clips, "dusk", 90), (other, "noon", 230)):
        write_grey_image(folder / f"{name}.png", shade)
        write_conversations(folder, [*SAMPLES, {"id": name, "image": f"{name}.png", "split": "train"}])
    data.text("commit", clips)
    scan = read_folder(other)
    digests = {name: file.sha256 for name, file in scan.files.items()}
    commit_dataset(
        store,
        "clips",
        other,
        {str(split): samples for split, samples in split_samples(scan.samples, 0.1, digests).items()},
        (),
        before_head=recording(store, message="Noon", author="Ada", media=scan.files.facts),
        head=head,
        on_conflict="rebase",
    )
    found = data.json("stats", "clips")
    assert (found["counts"]["samples"], found["media"], found["unknown"]) == (5, {"image": 4, "audio": 1}, 0)
    assert data.json("log", "clips")[0]["message"] == "Noon"


@pytest.mark.parametrize("command", ["status", "commit"])
@pytest.mark.parametrize(
    ("option", "value"), [("--held-out-share", "1.5"), ("--held-out-share", "nan"), ("--max-bad-share", "-1")]
)
def test_a_share_outside_its_range_is_refused(
    data: DataCommands, clips: Path, command: str, option: str, value: str
) -> None:
    code, output = data.run(command, clips, f"{option}={value}")
    assert (code, option in output) == (2, True)
