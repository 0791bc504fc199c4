"""Checkouts of a dataset commit: every byte, nothing else, and no damaged blob."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from llava_av.datasets.checkout import checkout, read_split
from llava_av.datasets.commits import CommitError
from llava_av.storage import ObjectStore
from tests.dataset_folders import stored_key
from tests.integration.commits.folders import commit, make, tree

pytestmark = pytest.mark.integration


def test_checkout_restores_every_byte(store: ObjectStore, tmp_path: Path) -> None:
    splits = make(tmp_path / "in")
    made = commit(store, tmp_path / "in", splits)
    out = checkout(store, made, tmp_path / "out")
    media = {name: data for name, data in tree(out).items() if name.startswith("clips/")}
    assert media == tree(tmp_path / "in")
    assert read_split(out, "train") == splits["train"]
    assert read_split(out, "held_out") == splits["held_out"]
    with pytest.raises(CommitError, match="no split test"):
        checkout(store, made, out, ["test"])
    with pytest.raises(CommitError, match="has no split test"):
        read_split(out, "test")


def test_a_second_checkout_fetches_only_what_is_missing(store: ObjectStore, tmp_path: Path) -> None:
    made = commit(store, tmp_path / "in", make(tmp_path / "in"))
    out = checkout(store, made, tmp_path / "out", ["held_out"])
    assert sorted(tree(out)) == ["clips/4.mp4", "clips/5.mp4", "held_out.jsonl"]
    calls: list[tuple[int, int]] = []
    progress = lambda done, total: calls.append((done, total))  # noqa: E731
    checkout(store, made, out, progress=progress)
    assert calls[-1] == (5, 5)
    (out / "clips/0.mp4").write_bytes(b"edited")
    (out / "clips/1.mp4").unlink()
    calls.clear()
    checkout(store, made, out, progress=progress)
    assert calls == [(1, 2), (2, 2)]
    checkout(store, made, out, progress=progress)
    assert len(calls) == 2
    assert tree(out) == tree(checkout(store, made, tmp_path / "fresh"))


def test_checkout_replaces_another_commit_and_leaves_nothing_of_it(
    store: ObjectStore, tmp_path: Path
) -> None:
    first = commit(store, tmp_path / "a", make(tmp_path / "a", count=9))
    second = commit(store, tmp_path / "b", make(tmp_path / "b", count=4, salt="x"))
    out = checkout(store, first, tmp_path / "out")
    checkout(store, second, out, ["held_out"])
    assert sorted(tree(out)) == ["clips/2.mp4", "clips/3.mp4", "held_out.jsonl"]
    with pytest.raises(CommitError, match="has no split train"):
        read_split(out, "train")


def test_checkout_never_touches_a_folder_of_something_else(store: ObjectStore, tmp_path: Path) -> None:
    made = commit(store, tmp_path / "in", make(tmp_path / "in"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.txt").write_text("precious")
    with pytest.raises(CommitError, match="home is not empty and not a copy of a dataset"):
        checkout(store, made, tmp_path / "home")
    assert tree(tmp_path / "home") == {"thesis.txt": b"precious"}


@pytest.mark.parametrize("damage", ["alter", "lose"])
def test_a_damaged_blob_is_named_and_the_copy_stays_incomplete(
    store: ObjectStore, tmp_path: Path, damage: str
) -> None:
    made = commit(store, tmp_path / "in", make(tmp_path / "in"))
    key = stored_key(store, made, "clips/3.mp4")
    good = store.get_bytes(key)
    store.delete(key)
    if damage == "alter":
        store.put_bytes(key, b"x" * len(good))
    match = f"clips/3.mp4 is {'damaged' if damage == 'alter' else 'lost'}"
    for _ in range(2):
        with pytest.raises(CommitError, match=match):
            checkout(store, made, tmp_path / "out")
    assert not (tmp_path / "out/clips/3.mp4").exists()
    store.put_bytes(key, good)
    assert "clips/3.mp4" in tree(checkout(store, made, tmp_path / "out"))


def test_several_processes_may_check_out_one_folder(
    store: ObjectStore, store_environment: Mapping[str, str], tmp_path: Path
) -> None:
    made = commit(store, tmp_path / "in", make(tmp_path / "in", count=80))
    code = (
        "import sys, pathlib\nfrom llava_av.datasets.checkout import checkout\n"
        "from llava_av.datasets.commits import find_commit\n"
        "from llava_av.storage import ObjectStore\nstore = ObjectStore.from_env()\n"
        "checkout(store, find_commit(store, 'd'), pathlib.Path(sys.argv[1]))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    workers = [subprocess.Popen(command, env={**os.environ, **store_environment}) for _ in range(3)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    assert tree(tmp_path / "out") == tree(checkout(store, made, tmp_path / "alone"))


def test_a_thousand_clips_are_quick(store: ObjectStore, tmp_path: Path) -> None:
    splits = make(tmp_path / "in", count=1100, size=30_000)
    started = time.monotonic()
    made = commit(store, tmp_path / "in", splits)
    committed = time.monotonic()
    checkout(store, made, tmp_path / "out")
    copied = time.monotonic()
    assert commit(store, tmp_path / "in", splits).unchanged
    again = time.monotonic()
    print(
        f"commit {committed - started:.1f} s, checkout {copied - committed:.1f} s, again {again - copied:.1f}"
    )
    # 3 s each on two idle cores; the limit allows for a busy machine.
    assert committed - started < 30
    assert copied - committed < 30
