"""Several writers of one dataset, and blobs that are not what their names state."""

import os
from pathlib import Path

import pytest

from llava_av.datasets.commits import Commit, CommitError, find_commit, read_head
from llava_av.datasets.committing import commit_dataset
from llava_av.datasets.contents import read_samples
from llava_av.datasets.file_cache import FileCache
from llava_av.datasets.manifest import commit_key, manifest_key, ref_key
from llava_av.datasets.sources.folder import Quarantined
from llava_av.storage import ObjectStore, map_parallel
from tests.dataset_folders import stored_key
from tests.integration.commits.folders import commit, copied, make, sample, tree

pytestmark = pytest.mark.integration


def test_a_commit_of_another_writer_is_not_replaced_without_notice(
    store: ObjectStore, tmp_path: Path
) -> None:
    first = commit(store, tmp_path / "a", make(tmp_path / "a"))
    seen = read_head(store, "d")
    other = commit(store, tmp_path / "b", make(tmp_path / "b", salt="b"))
    own = make(tmp_path / "c", salt="c")
    match = f"dataset d is not committed: .*{first.id[:16]} to {other.id[:16]}.* --rebase .* --force"
    with pytest.raises(CommitError, match=match):
        commit_dataset(store, "d", tmp_path / "c", own, (), head=seen)
    assert find_commit(store, "d").id == other.id
    forced = commit_dataset(store, "d", tmp_path / "c", own, (), head=seen, on_conflict="force")
    assert forced.parent == other.id
    assert find_commit(store, "d").manifest == forced.manifest
    # What another writer has committed already is no conflict.
    again = commit_dataset(store, "d", tmp_path / "c", own, (), head=seen)
    assert (again.id, again.unchanged) == (forced.id, True)


def test_a_rebase_keeps_the_changes_of_both_writers(store: ObjectStore, tmp_path: Path) -> None:
    splits = make(tmp_path / "a")
    bad = (Quarantined(file="x.mp4", reason="cut short"), Quarantined(file="y.mp4", reason="empty"))
    commit_dataset(store, "d", tmp_path / "a", splits, bad)
    seen = read_head(store, "d")
    theirs = make(tmp_path / "b")
    (tmp_path / "b/clips/1.mp4").write_bytes(b"changed")
    kept = {"train": theirs["train"][1:], "held_out": theirs["held_out"]}
    other = commit_dataset(store, "d", tmp_path / "b", kept, bad[1:])
    own = make(tmp_path / "c")
    (tmp_path / "c/clips/new.mp4").write_bytes(b"new")
    own["train"] = (*own["train"], sample(10, "clips/new.mp4"))
    own["held_out"] = own["held_out"][:1]
    made = commit_dataset(store, "d", tmp_path / "c", own, bad, head=seen, on_conflict="rebase")
    assert made.parent == other.id
    out = copied(store, made, tmp_path / "out")
    reader = made.reader(store)
    assert [one.id for one in read_samples(reader, "train")] == ["s0001", "s0002", "s0003", "s0010"]
    assert [one.id for one in read_samples(reader, "held_out")] == ["s0004"]
    assert (out / "clips/1.mp4").read_bytes() == b"changed"
    assert (out / "clips/new.mp4").read_bytes() == b"new"
    assert {"clips/0.mp4", "clips/5.mp4"}.isdisjoint(tree(out))
    assert [one.file for one in made.manifest.quarantined] == ["y.mp4"]


def test_rebases_of_many_writers_keep_every_change(store: ObjectStore, tmp_path: Path) -> None:
    splits = make(tmp_path)
    commit(store, tmp_path, splits)
    seen = read_head(store, "d")

    def add(number: int) -> Commit:
        (tmp_path / f"clips/new{number}.mp4").write_bytes(b"new" * (number + 1))
        own = {**splits, "train": (*splits["train"], sample(10 + number, f"clips/new{number}.mp4"))}
        return commit_dataset(store, "d", tmp_path, own, (), head=seen, on_conflict="rebase")

    made = {each.id for each in map_parallel(add, range(5))}
    found = find_commit(store, "d")
    assert len(made) == 5
    assert found.id in made
    train = read_samples(found.reader(store), "train")
    assert [int(one.id[1:]) for one in train] == [*range(4), *range(10, 15)]


@pytest.mark.parametrize("case", ["sample", "file", "split"])
def test_a_rebase_refuses_what_both_writers_changed(store: ObjectStore, tmp_path: Path, case: str) -> None:
    commit(store, tmp_path / "a", make(tmp_path / "a"))
    seen = read_head(store, "d")
    for side in ("theirs", "own"):
        splits = make(tmp_path / side)
        if case == "file":
            (tmp_path / side / "clips/1.mp4").write_bytes(side.encode())
        elif case == "sample":
            changed = splits["train"][1].model_copy(update={"kind": side})
            splits["train"] = (splits["train"][0], changed, *splits["train"][2:])
        else:
            split = "train" if side == "own" else "held_out"
            (tmp_path / side / "clips/new.mp4").write_bytes(b"new")
            splits[split] = (*splits[split], sample(20 + len(side), "clips/new.mp4"))
        if side == "theirs":
            other = commit(store, tmp_path / side, splits)
    named = {
        "sample": "sample s0001",
        "file": r"clips/1\.mp4",
        "split": r"clips/new\.mp4 would be in two splits",
    }
    with pytest.raises(CommitError, match=named[case]):
        commit_dataset(store, "d", tmp_path / "own", splits, (), head=seen, on_conflict="rebase")
    assert find_commit(store, "d").id == other.id


@pytest.mark.parametrize("size", [300, (8 << 20) + 5])
def test_a_commit_never_vouches_for_a_damaged_blob(store: ObjectStore, tmp_path: Path, size: int) -> None:
    splits = make(tmp_path / "in", count=3, size=300)
    (tmp_path / "in/clips/0.mp4").write_bytes(os.urandom(size))
    first = commit(store, tmp_path / "in", splits)
    assert commit(store, tmp_path / "in", splits, name="other").uploaded_files == 0
    key = stored_key(store, first, "clips/0.mp4")
    flipped = bytearray(store.get_bytes(key))
    flipped[size // 2] ^= 1
    store.put_bytes(key, bytes(flipped))
    for name in ("new", "d"):
        made = commit(store, tmp_path / "in", splits, name=name)
        assert (made.uploaded_files, made.uploaded_bytes) == ((1, size) if name == "new" else (0, 0))
        assert copied(store, made, tmp_path / name)


def test_a_damaged_manifest_is_written_again(store: ObjectStore, tmp_path: Path) -> None:
    splits = make(tmp_path / "in", count=3)
    first = commit(store, tmp_path / "in", splits)
    key = manifest_key("d", store.get_json(commit_key("d", first.id))["manifest"])
    store.put_bytes(key, b"{}")
    store.delete(ref_key("d"))
    assert commit(store, tmp_path / "in", splits).id == first.id
    assert find_commit(store, "d").manifest == first.manifest


def test_a_blob_sent_by_another_program_is_compared_once(store: ObjectStore, tmp_path: Path) -> None:
    splits = make(tmp_path / "in", count=3)
    content = os.urandom(9 << 20)
    (tmp_path / "in/clips/0.mp4").write_bytes(content)
    first = commit(store, tmp_path / "in", splits)
    key = stored_key(store, first, "clips/0.mp4")
    # In one piece, its entity tag differs from that of an upload in parts.
    store.put_bytes(key, content)
    found = store.find(key)
    assert found is not None
    cache = FileCache()
    assert commit_dataset(store, "new", tmp_path / "in", splits, (), cache=cache).uploaded_files == 0
    assert cache.is_verified(f"{store.endpoint} {store.uri(key)}", found.etag)
