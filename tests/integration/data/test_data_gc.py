"""Deletion of unused blobs and commits beside writers, on a real object store."""

import datetime
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from llava_av.datasets import writers
from llava_av.datasets.commits import Commit, CommitError, find_commit
from llava_av.datasets.committing import commit_dataset
from llava_av.datasets.manifest import blob_key, commit_key, ref_key
from llava_av.datasets.media_facts import media_facts_keys
from llava_av.datasets.sources.folder import read_folder
from llava_av.datasets.writers import announced, deletion_lock
from llava_av.storage import ObjectStore
from llava_av.workflows.collect_garbage import delete_garbage, find_garbage
from tests.dataset_folders import DataCommands, stored_key, write_dataset, write_grey_image

pytestmark = pytest.mark.integration

NOW = datetime.timedelta(0)


@pytest.fixture
def commits(data: DataCommands, store: ObjectStore, tmp_path: Path) -> list[Commit]:
    """Commit a folder four times, each time with another image of the day."""
    clips = write_dataset(tmp_path / "clips")
    made = []
    for shade in (10, 20, 30, 50):
        write_grey_image(clips / "day.png", shade)
        data.text("commit", clips)
        made.append(find_commit(store, "clips"))
    return made


def day(store: ObjectStore, commit: Commit) -> str:
    return stored_key(store, commit, "day.png")


def keys(store: ObjectStore) -> set[str]:
    return {info.key for info in store.list()}


def test_unused_blobs_are_deleted_when_they_are_old_enough(
    data: DataCommands, store: ObjectStore, commits: list[Commit]
) -> None:
    orphan = blob_key("ab" * 32)
    before = keys(store)
    store.put_bytes(orphan, b"left by a killed writer")
    assert data.json("gc")["blobs"] == []
    found = data.json("gc", "--older-than-days", "0")
    assert (found["blobs"], found["bytes"], found["commits"]) == ([orphan], 23, [])
    assert orphan in data.text("gc", "--older-than-days", "0")
    assert keys(store) == before | {orphan}
    assert data.json("gc", "--delete", "--older-than-days", "0")["deleted"]
    assert keys(store) == before
    data.text("verify", "--all")


def test_old_commits_stay_if_anything_needs_them(
    data: DataCommands, store: ObjectStore, commits: list[Commit]
) -> None:
    first, second, third, newest = commits
    days = [day(store, one) for one in commits]
    facts = [key for one in commits for key in media_facts_keys(one)]
    data.text("tag", f"clips@{first.id}", "v1")
    store.put_json("runs/0123/request.json", {"dataset": {"name": "clips", "commit": second.id}})
    assert find_garbage(store, keep_commits=1).commits == ()
    found = delete_garbage(store, keep_commits=1, safety_age=NOW)
    assert found.commits == (f"clips@{third.id}",)
    # The image and the list of files; the list of samples is that of the other commits.
    assert days[2] in {blob.key for blob in found.blobs}
    assert len(found.blobs) == 2
    assert not {key for key in keys(store) if third.id in key}
    assert [key in keys(store) for key in (*days, *facts)] == [True, True, False, True] * 2
    data.text("verify", "--all")
    assert [one["commit"] for one in data.json("log", "clips")] == [newest.id]
    store.delete("runs/0123/request.json")
    assert find_garbage(store, keep_commits=2, safety_age=NOW).commits == (f"clips@{second.id}",)


def test_nothing_is_deleted_if_a_reference_cannot_be_read(store: ObjectStore, commits: list[Commit]) -> None:
    store.put_bytes("checkpoints/4567/step-00000001/manifest.json", b"{}")
    before = keys(store)
    with pytest.raises(CommitError, match=r"runs/4567/request\.json is\s+lost"):
        delete_garbage(store, keep_commits=1, safety_age=NOW)
    store.put_bytes(commit_key("clips", commits[1].id), b"{}")
    with pytest.raises(CommitError, match="damaged"):
        delete_garbage(store, safety_age=NOW)
    assert keys(store) == before


def test_base_models_need_no_commit(store: ObjectStore, commits: list[Commit]) -> None:
    store.put_bytes("checkpoints/base-onevision/step-00000000/manifest.json", b"{}")
    assert len(find_garbage(store, keep_commits=1, safety_age=NOW).commits) == 3


def test_no_commit_is_deleted_if_the_newest_one_is_lost(store: ObjectStore, commits: list[Commit]) -> None:
    record = commit_key("clips", commits[-1].id)
    content = store.get_bytes(record)
    store.delete(record)
    with pytest.raises(CommitError, match=commits[-1].id):
        delete_garbage(store, keep_commits=1, safety_age=NOW)
    store.put_bytes(record, content)
    store.delete(ref_key("clips"))
    assert find_garbage(store, keep_commits=1, safety_age=NOW).commits == ()


def test_a_writer_between_check_and_ref_keeps_the_blobs_it_relies_on(
    store: ObjectStore, commits: list[Commit], tmp_path: Path
) -> None:
    """The writer reuses a blob that no commit needs; the deletion runs before its commit is complete."""
    orphan = day(store, commits[0])
    shared = store.get_bytes(orphan)
    (tmp_path / "new").mkdir()
    reached, go_on = threading.Event(), threading.Event()

    def before_head(commit: Commit) -> None:
        reached.set()
        assert go_on.wait(30)

    delete_garbage(store, keep_commits=1, safety_age=NOW)
    store.put_bytes(orphan, shared)
    folder = write_dataset(tmp_path / "new")
    (folder / "day.png").write_bytes(shared)
    samples = read_folder(folder).samples
    splits = {"train": samples[:2], "held_out": samples[2:]}
    written: list[Commit] = []
    thread = threading.Thread(
        target=lambda: written.append(
            commit_dataset(store, "new", folder, splits, (), before_head=before_head)
        )
    )
    thread.start()
    try:
        assert reached.wait(30)
        with pytest.raises(CommitError, match="dataset new is being committed"):
            delete_garbage(store, safety_age=NOW)
    finally:
        go_on.set()
        thread.join()
    assert delete_garbage(store, safety_age=NOW).blobs == ()
    assert store.get_bytes(day(store, written[0])) == shared


def test_a_commit_fails_while_blobs_are_deleted(
    data: DataCommands, store: ObjectStore, commits: list[Commit], tmp_path: Path
) -> None:
    write_grey_image(tmp_path / "clips/day.png", 60)
    with deletion_lock(store):
        assert "data gc" in data.error("commit", tmp_path / "clips")
        with pytest.raises(CommitError, match="another `data gc`"):
            delete_garbage(store)
    assert find_commit(store, "clips").id == commits[-1].id
    data.text("commit", tmp_path / "clips")
    assert not [key for key in keys(store) if key.startswith(("datasets/.writers/", "datasets/.deletion"))]


def test_what_killed_commands_left_expires(store: ObjectStore, commits: list[Commit]) -> None:
    long_ago = (datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=8)).isoformat()
    store.put_json("datasets/.deletion.json", {"since": long_ago})
    store.put_json("datasets/.writers/killed.json", {"dataset": "clips", "since": long_ago})
    assert announced(lambda store, name: name)(store, "clips") == "clips"
    delete_garbage(store)
    assert "datasets/.deletion.json" not in keys(store)


def test_a_deletion_that_was_stopped_for_too_long_does_not_continue(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter((0.0, 90.0, 90.0, 1000.0, 1000.0)).__next__
    monkeypatch.setattr(writers, "time", SimpleNamespace(monotonic=clock))
    with deletion_lock(store) as lock:
        lock.renew()
        with pytest.raises(CommitError, match="lost its lock"):
            lock.renew()
    assert keys(store) == set()
