"""Commits of the first version of the format, as that version stored them: `earlier-commit.json`.

The file has the objects of a commit of `make(root, count=5, size=20)` with one omission.
"""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from llava_av.datasets.commits import Commit, find_commit, read_head
from llava_av.datasets.committing import commit_dataset
from llava_av.datasets.comparison import compare_contents, compared_commit
from llava_av.datasets.contents import read_samples
from llava_av.datasets.manifest import sha256_hex
from llava_av.datasets.media_facts import has_facts, read_facts, write_facts
from llava_av.datasets.repairing import repair
from llava_av.datasets.sources.folder import Quarantined
from llava_av.datasets.verification import verify_commits
from llava_av.media.info import MediaInfo
from llava_av.storage import ObjectStore
from llava_av.workflows.collect_garbage import delete_garbage
from tests.dataset_folders import stored_key
from tests.integration.commits.folders import copied, make, media, sample, tree

pytestmark = pytest.mark.integration

OBJECTS = json.loads((Path(__file__).parent / "earlier-commit.json").read_text())
LEFT_OUT = (Quarantined(file="x.mp4", reason="cut short"),)


@pytest.fixture
def earlier(store: ObjectStore) -> Commit:
    for key, content in OBJECTS.items():
        store.put_bytes(key, content.encode())
    return find_commit(store, "d")


def test_it_is_checked_out_and_verified(store: ObjectStore, earlier: Commit, tmp_path: Path) -> None:
    splits = make(tmp_path / "in", count=5, size=20)
    out = copied(store, earlier, tmp_path / "out")
    assert media(out) == tree(tmp_path / "in")
    assert read_samples(earlier.reader(store), "held_out") == splits["held_out"]
    assert (earlier.manifest.file_count, earlier.manifest.quarantined[0].file) == (7, "x.mp4")
    assert verify_commits(store, [earlier]).blobs == 7
    delete_garbage(store, safety_age=timedelta(0))
    lost = [key for key in OBJECTS if key.startswith("blobs/2")]
    for key in lost:
        store.delete(key)
    damaged = verify_commits(store, [earlier]).damaged
    assert sorted(blob.kind for blob in damaged) == ["media", "samples"]
    (tmp_path / "in/conversations.jsonl").write_text(
        "".join(one.to_json_line() + "\n" for own in splits.values() for one in own)
    )
    assert len(repair(store, [earlier], damaged, tmp_path / "in")) == 2
    assert {key: store.get_bytes(key).decode() for key in OBJECTS} == OBJECTS


def test_equal_content_is_unchanged_and_a_change_is_stored_as_ranges(
    store: ObjectStore, earlier: Commit, tmp_path: Path
) -> None:
    splits = make(tmp_path, count=5, size=20)
    again = commit_dataset(store, "d", tmp_path, splits, LEFT_OUT)
    assert (again.id, again.unchanged, again.uploaded_files) == (earlier.id, True, 0)
    (tmp_path / "clips/0.mp4").write_bytes(b"another")
    made = commit_dataset(store, "d", tmp_path, splits, LEFT_OUT)
    assert (made.parent, made.uploaded_files, made.uploaded_bytes) == (earlier.id, 1, 7)
    changes = compare_contents(compared_commit(store, earlier), compared_commit(store, made))
    assert (changes.files.changed, bool(changes.samples)) == (("clips/0.mp4",), False)
    assert changes.before.kinds == changes.after.kinds == {"all": 5}
    delete_garbage(store, safety_age=timedelta(0))
    assert verify_commits(store, [earlier, made]).damaged == ()


def test_the_next_commit_inherits_the_properties_of_its_media(
    store: ObjectStore, earlier: Commit, tmp_path: Path
) -> None:
    info = {"kind": "video", "duration_s": 3.6, "frames": 9, "fps": 2.5, "width": 4, "height": 2}
    info |= {"has_audio": False, "sample_rate_hz": None, "is_animation": False}
    digests = [row.sha256 for row in earlier.reader(store).files]
    store.put_json(f"datasets/d/media/{earlier.id}.json", dict.fromkeys(digests, info))
    splits = make(tmp_path, count=5, size=20)
    (tmp_path / "clips/0.mp4").write_bytes(b"another")
    made = commit_dataset(store, "d", tmp_path, splits, LEFT_OUT)
    own = {sha256_hex(b"another"): MediaInfo(**{**info, "duration_s": 7.2})}
    write_facts(store, made, {})
    assert not has_facts(store, made)
    write_facts(store, made, own)
    changes = compare_contents(compared_commit(store, earlier), compared_commit(store, made))
    assert (changes.before.hours, changes.after.hours) == (0.005, 0.006)
    assert len(read_facts(store, made)) == 5


def test_it_is_rebased_upon(store: ObjectStore, earlier: Commit, tmp_path: Path) -> None:
    seen = read_head(store, "d")
    theirs = make(tmp_path, count=5, size=20)
    commit_dataset(store, "d", tmp_path, {**theirs, "train": theirs["train"][1:]}, LEFT_OUT)
    (tmp_path / "clips/new.mp4").write_bytes(b"new")
    own = {**theirs, "train": (*theirs["train"], sample(10, "clips/new.mp4"))}
    made = commit_dataset(store, "d", tmp_path, own, LEFT_OUT, head=seen, on_conflict="rebase")
    found = [line.id for line in made.reader(store).samples("train")]
    assert found == ["s0001", "s0002", "s0010"]
    assert store.exists(stored_key(store, made, "clips/new.mp4"))
