"""Dataset commits on a real object store: content addressing, races, crashes, damage, speed."""

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llava_av.datasets.commits import Commit, CommitError, find_commit, read_commit
from llava_av.datasets.committing import commit_dataset
from llava_av.datasets.comparison import compare_contents, compared_commit
from llava_av.datasets.manifest import commit_key, manifest_key, ref_key, safe_path
from llava_av.datasets.sources.folder import Quarantined
from llava_av.storage import ObjectStore, map_parallel
from tests.dataset_folders import stored_key
from tests.integration.commits.folders import commit, copied, make, media, sample

pytestmark = pytest.mark.integration


def test_the_second_commit_of_the_same_uploads_nothing(store: ObjectStore, tmp_path: Path) -> None:
    splits = make(tmp_path)
    calls: list[tuple[int, int]] = []
    bad = (Quarantined(file="x.mp4", reason="cut short"),)
    progress = lambda done, total: calls.append((done, total))  # noqa: E731
    first = commit_dataset(store, "d", tmp_path, splits, bad, progress=progress)
    assert (first.uploaded_files, first.parent, first.unchanged) == (8, None, False)
    assert calls == [(done, 8) for done in range(1, 9)]
    before = {info.key: info.etag for info in store.list()}
    second = commit_dataset(store, "d", tmp_path, splits, bad, progress=progress)
    assert (second.id, second.unchanged, second.uploaded_files) == (first.id, True, 0)
    assert {info.key: info.etag for info in store.list()} == before
    assert len(calls) == 8
    assert second.manifest.quarantined[0].reason == "cut short"


def test_a_new_dataset_restores_what_the_store_lost(store: ObjectStore, tmp_path: Path) -> None:
    splits = make(tmp_path / "in")
    first = commit(store, tmp_path / "in", splits)
    lost, short = (stored_key(store, first, f"clips/{number}.mp4") for number in (3, 4))
    store.delete(lost)
    store.put_bytes(short, store.get_bytes(short)[:10])
    with pytest.raises(CommitError, match=r"clips/3\.mp4 is lost: .* data verify.* --repair"):
        copied(store, first, tmp_path / "out", "train")
    # What the newest commit lists is not looked for.
    second = commit(store, tmp_path / "in", splits)
    assert (second.id, second.unchanged, second.uploaded_files) == (first.id, True, 0)
    other = commit(store, tmp_path / "in", splits, name="other")
    assert (other.uploaded_files, other.uploaded_bytes) == (2, 150)
    assert copied(store, first, tmp_path / "out") == tmp_path / "out"


def test_a_change_uploads_what_changed_and_names_its_parent(store: ObjectStore, tmp_path: Path) -> None:
    first = commit(store, tmp_path, make(tmp_path))
    splits = make(tmp_path)
    (tmp_path / "clips/0.mp4").write_bytes(b"another")
    second = commit(store, tmp_path, splits)
    assert second.parent == first.id
    assert (second.uploaded_files, second.uploaded_bytes) == (1, 7)
    assert find_commit(store, "d") == read_commit(store, "d", second.id)
    assert find_commit(store, f"d@{first.id[:12]}").id == first.id


def test_a_change_of_many_samples_sends_one_range(store: ObjectStore, tmp_path: Path) -> None:
    [*many, last], _ = make(tmp_path, 6).values()
    texts = [last.model_copy(update={"id": f"t{number}"}) for number in range(5000)]
    first = commit(store, tmp_path, {"train": [*many, *texts]})
    ranges = first.reader(store).samples("train").ranges
    assert first.uploaded_files == 4 + len(ranges) > 6
    before = {info.key for info in store.list("blobs/")}
    texts[2000] = texts[2000].model_copy(update={"kind": "other"})
    (tmp_path / "clips/1.mp4").write_bytes(b"another")
    second = commit(store, tmp_path, {"train": [*many, *texts]})
    assert second.uploaded_files == 2
    # The file, the range of the sample and the range of the file.
    assert len({info.key for info in store.list("blobs/")} - before) == 3
    changes = compare_contents(compared_commit(store, first), compared_commit(store, second))
    assert (changes.samples.changed, changes.files.changed) == (("t2000",), ("clips/1.mp4",))
    assert changes.after.kinds == {"all": 5002, "other": 1}


def test_datasets_share_blobs_but_no_history(store: ObjectStore, tmp_path: Path) -> None:
    splits = make(tmp_path)
    first, other = commit(store, tmp_path, splits), commit(store, tmp_path, splits, name="other")
    assert other.uploaded_files == 0
    assert other.manifest == first.manifest
    assert other.id != first.id


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_id_depends_on_content_alone(store: ObjectStore, tmp_path: Path, data: st.DataObject) -> None:
    root = tmp_path / uuid.uuid4().hex
    splits = make(root)
    name = f"d-{uuid.uuid4().hex}"
    first = commit(store, root, splits, name)
    moved = tmp_path / uuid.uuid4().hex
    shutil.copytree(root, moved)
    os.utime(moved / "clips/0.mp4", (1, 1))
    shuffled = {
        split: data.draw(st.permutations(splits[split])) for split in data.draw(st.permutations(list(splits)))
    }
    assert commit(store, moved, shuffled, name).unchanged
    # Without the ref, the same commit gets the same ID again.
    store.delete(ref_key(name))
    assert commit(store, moved, shuffled, name).id == first.id
    (moved / "clips/1.mp4").write_bytes(data.draw(st.binary(max_size=8)))
    assert commit(store, moved, shuffled, name).id != first.id


def test_the_commits_of_many_writers_form_one_history(store: ObjectStore, tmp_path: Path) -> None:
    def write(number: int) -> Commit:
        root = tmp_path / str(number)
        return commit(store, root, make(root, salt=f"w{number}"), on_conflict="force")

    made = {each.id for each in map_parallel(write, range(6))}
    history: list[str] = []
    at: str | None = find_commit(store, "d").id
    while at is not None:
        history.append(at)
        at = read_commit(store, "d", at).parent
    assert set(history) == made
    assert len(history) == 6


def test_altered_commits_and_manifests_are_refused(store: ObjectStore, tmp_path: Path) -> None:
    made = commit(store, tmp_path, make(tmp_path))
    record = store.get_json(commit_key("d", made.id))
    key = manifest_key("d", record["manifest"])
    manifest = store.get_bytes(key)
    store.put_bytes(key, manifest.replace(b"clips/0", b"clips/9"))
    with pytest.raises(CommitError, match=r"the manifest of d@.* is damaged"):
        read_commit(store, "d", made.id)
    store.put_bytes(key, manifest)
    store.put_bytes(commit_key("d", made.id), b"{}")
    with pytest.raises(CommitError, match="is damaged"):
        read_commit(store, "d", made.id)
    with pytest.raises(CommitError, match=f"d@{'0' * 64} does not exist"):
        read_commit(store, "d", "0" * 64)
    with pytest.raises(
        CommitError, match=r"dataset none does not exist .*: existing are d; commit it .*commit"
    ):
        find_commit(store, "none")
    with pytest.raises(CommitError, match=r"no commit of dataset d .* starts with ffff"):
        find_commit(store, "d@ffff")


def test_bad_names_and_files_are_one_line(store: ObjectStore, tmp_path: Path) -> None:
    splits = make(tmp_path)
    with pytest.raises(CommitError, match="dataset name 'A/b'"):
        commit(store, tmp_path, splits, name="A/b")
    with pytest.raises(CommitError, match=r"sample s0001 names .* '\.\./x' does not stay inside"):
        commit(store, tmp_path, {"train": (sample(1, "../x"),)})
    with pytest.raises(CommitError, match=r"cannot read .*gone\.mp4: No such file"):
        commit(store, tmp_path, {"train": (sample(1, "gone.mp4"),)})
    with pytest.raises(CommitError, match=r"train\.jsonl has the name of a split's own file"):
        commit(store, tmp_path, {"train": (sample(1, "train.jsonl"),)})


@given(st.text(alphabet="ab./~ \0", max_size=12))
def test_a_safe_path_never_leaves_its_folder(text: str) -> None:
    try:
        plain = safe_path(text)
    except ValueError:
        return
    inside = os.path.normpath(os.path.join("/root/folder", plain))
    assert inside.startswith("/root/folder/")
    assert safe_path(plain) == plain


# Commits and checks out until it is killed; reports its start.
WORKER = """
import json, sys, pathlib
from llava_av.datasets.committing import commit_dataset
from llava_av.datasets.contents import Selection
from llava_av.datasets.extraction import extract
from llava_av.datasets.schema import parse_sample
from llava_av.storage import ObjectStore
root, out, begun = (pathlib.Path(each) for each in sys.argv[1:])
store = ObjectStore.from_env()
samples = [parse_sample(line, 1) for line in (root / "samples.jsonl").read_text().splitlines()]
begun.touch()
while True:
    made = commit_dataset(store, "d", root, {"train": samples}, ())
    extract(store, made, out, Selection())
    store.delete("datasets/d/refs/main")
    for info in list(store.list("blobs/"))[::7]:
        store.delete(info.key)
    (out / "conversations.jsonl").unlink()
"""


@pytest.mark.parametrize("delay_s", [0.1, 0.3, 0.7])
def test_a_killed_writer_leaves_no_incomplete_commit(
    store: ObjectStore, store_environment: Mapping[str, str], tmp_path: Path, delay_s: float
) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    samples = [each for split in make(root, count=60).values() for each in split]
    (root / "samples.jsonl").write_text("".join(each.to_json_line() + "\n" for each in samples))
    arguments = [sys.executable, "-c", WORKER, str(root), str(out), str(tmp_path / "begun")]
    worker = subprocess.Popen(arguments, env={**os.environ, **store_environment})
    deadline = time.monotonic() + 30
    while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(delay_s)  # the moment of the kill is what is varied here, nothing is waited for
    worker.send_signal(signal.SIGKILL)
    worker.wait(10)
    if store.exists(ref_key("d")):
        # While the ref exists, all blobs do: the worker deletes blobs only after the ref.
        copied(store, find_commit(store, "d"), tmp_path / "verify")
    # Blobs that the worker deleted are restored: the ref is written again, as the worker does.
    store.delete(ref_key("d"))
    made = commit(store, root, {"train": samples})
    copied(store, made, out)
    assert media(out) == media(root)
