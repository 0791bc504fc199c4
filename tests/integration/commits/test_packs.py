"""Small files of dataset commits in packs, on a real object store."""

import datetime
from pathlib import Path

import pytest

from llava_av.datasets import packs
from llava_av.datasets.commits import Commit, CommitError, OnConflict, read_head
from llava_av.datasets.committing import commit_dataset
from llava_av.datasets.contents import Selection
from llava_av.datasets.extraction import extract
from llava_av.datasets.manifest import blob_key
from llava_av.datasets.media_blobs import find_places, spans_of
from llava_av.datasets.placements import Place, placement_keys
from llava_av.datasets.ranges import FileRow
from llava_av.datasets.repairing import repair
from llava_av.datasets.verification import verify_commits
from llava_av.storage import ObjectStore
from llava_av.workflows.collect_garbage import delete_garbage
from tests.integration.commits.folders import commit, copied, make, media

pytestmark = pytest.mark.integration

NOW = datetime.timedelta(0)


def places(store: ObjectStore, made: Commit) -> dict[str, Place]:
    """Return the place of each packed file by its path."""
    reader = made.reader(store)
    rows = list(reader.files)
    found = find_places(reader, rows)
    return {row.path: found[row.sha256] for row in rows if row.sha256 in found}


def blobs(store: ObjectStore) -> set[str]:
    return {info.key for info in store.list("blobs/")}


def test_many_small_files_are_one_blob(store: ObjectStore, tmp_path: Path) -> None:
    splits = make(tmp_path / "in", 100)
    first = commit(store, tmp_path / "in", splits)
    assert (first.uploaded_files, first.unchanged) == (102, False)
    # A pack, the samples of two splits, and the list of files.
    assert len(blobs(store)) == 4
    assert media(copied(store, first, tmp_path / "out")) == media(tmp_path / "in")
    part = copied(store, first, tmp_path / "part", "held_out")
    assert set(media(part)) == {"clips/98.mp4", "clips/99.mp4"}
    only = Selection(samples=frozenset({"s0050"}))
    assert extract(store, first, tmp_path / "one", only).downloaded == 1
    assert (tmp_path / "one/clips/50.mp4").read_bytes() == (tmp_path / "in/clips/50.mp4").read_bytes()
    assert verify_commits(store, [first]).blobs == 103


def test_few_small_files_are_blobs_of_their_own(store: ObjectStore, tmp_path: Path) -> None:
    first = commit(store, tmp_path, make(tmp_path, 7))
    assert places(store, first) == {}
    second = commit(store, tmp_path, make(tmp_path, 15))
    assert set(places(store, second)) == {f"clips/{number}.mp4" for number in range(7, 15)}


def test_a_manifest_does_not_depend_on_packs(store: ObjectStore, tmp_path: Path) -> None:
    whole = commit(store, tmp_path, make(tmp_path, 90))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packs, "_FEWEST", 100)
        commit(store, tmp_path, make(tmp_path, 45), name="grown")
        grown = commit(store, tmp_path, make(tmp_path, 90), name="grown")
    assert (len(places(store, whole)), places(store, grown)) == (90, {})
    assert grown.manifest == whole.manifest
    again = commit(store, tmp_path, make(tmp_path, 90), name="again")
    assert (again.uploaded_files, places(store, again)) == (0, places(store, whole))


def test_a_change_keeps_the_pack_of_the_other_files(store: ObjectStore, tmp_path: Path) -> None:
    first = commit(store, tmp_path / "in", make(tmp_path / "in", 100))
    splits = make(tmp_path / "in", 100)
    (tmp_path / "in/clips/7.mp4").write_bytes(b"another")
    (tmp_path / "in/clips/8.mp4").write_bytes((tmp_path / "in/clips/9.mp4").read_bytes())
    second = commit(store, tmp_path / "in", splits)
    assert (second.uploaded_files, second.parent) == (1, first.id)
    before, after = places(store, first), places(store, second)
    assert "clips/7.mp4" not in after
    assert after["clips/8.mp4"] == before["clips/9.mp4"]
    assert {place.pack for place in after.values()} == {place.pack for place in before.values()}
    for number, made in enumerate((first, second)):
        assert verify_commits(store, [made]).damaged == ()
        copy = copied(store, made, tmp_path / str(number))
        assert (copy / "clips/7.mp4").read_bytes() != b"another" or made == second
    assert media(tmp_path / "1") == media(tmp_path / "in")
    delete_garbage(store, safety_age=NOW)
    assert verify_commits(store, [first, second]).damaged == ()


def test_a_pack_is_deleted_when_no_commit_needs_it(store: ObjectStore, tmp_path: Path) -> None:
    first = commit(store, tmp_path, make(tmp_path, 100))
    [pack] = {place.key for place in places(store, first).values()}
    second = commit(store, tmp_path, make(tmp_path, 100, salt="new"))
    found = delete_garbage(store, keep_commits=1, safety_age=NOW)
    assert pack in {blob.key for blob in found.blobs}
    assert set(placement_keys("d", first.manifest)) <= set(found.records)
    assert verify_commits(store, [second]).damaged == ()
    [key] = placement_keys("d", second.manifest)
    store.put_bytes(key, b"{}")
    with pytest.raises(CommitError, match=r"the places of files from .* are damaged"):
        delete_garbage(store, safety_age=NOW)


@pytest.mark.parametrize("damage", ["one byte", "shorter", "lost", "placement"])
def test_damaged_packs_are_found_and_repaired(store: ObjectStore, tmp_path: Path, damage: str) -> None:
    root = tmp_path / "in"
    made = commit(store, root, make(root, 100))
    [pack] = {place.key for place in places(store, made).values()}
    offset, intact = places(store, made)["clips/42.mp4"].offset, store.get_bytes(pack)
    if damage == "one byte":
        store.put_bytes(pack, intact[:offset] + b"?" + intact[offset + 1 :])
    elif damage == "shorter":
        store.put_bytes(pack, intact[:offset])
    elif damage == "lost":
        store.delete(pack)
    else:
        store.put_bytes(placement_keys("d", made.manifest)[0], b"{}")
    found = verify_commits(store, [made])
    state = "damaged" if damage in ("one byte", "shorter") else "missing"
    assert {blob.state for blob in found.damaged} == {state}
    bad = [blob for blob in found.damaged if blob.paths[0].endswith("clips/42.mp4")]
    assert [blob.samples[0].rpartition(":")[2] for blob in bad] == ["s0042"]
    assert (len(found.damaged) == 1) == (damage == "one byte")
    with pytest.raises(CommitError, match=r"clips/\d+\.mp4 is (lost|damaged): .* data verify.* --repair"):
        copied(store, made, tmp_path / "out")
    assert len(repair(store, [made], found.damaged, root)) == len(found.damaged)
    assert verify_commits(store, [made]).damaged == ()
    assert media(copied(store, made, tmp_path / "out")) == media(root)
    if damage != "placement":
        assert store.get_bytes(pack) == intact


def test_a_new_dataset_does_not_rely_on_a_damaged_pack(store: ObjectStore, tmp_path: Path) -> None:
    splits = make(tmp_path, 100)
    first = commit(store, tmp_path, splits)
    [pack] = {place.key for place in places(store, first).values()}
    intact = store.get_bytes(pack)
    store.put_bytes(pack, bytes([intact[0] ^ 1]) + intact[1:])
    assert commit(store, tmp_path, splits, name="other").uploaded_files == 100
    assert store.get_bytes(pack) == intact


def test_a_commit_on_a_damaged_placement_sends_its_files_again(store: ObjectStore, tmp_path: Path) -> None:
    first = commit(store, tmp_path / "in", make(tmp_path / "in", 100))
    store.put_bytes(placement_keys("d", first.manifest)[0], b"{}")
    (tmp_path / "in/clips/7.mp4").write_bytes(b"another")
    second = commit(store, tmp_path / "in", make(tmp_path / "in", 101))
    assert verify_commits(store, [second]).damaged == ()
    assert media(copied(store, second, tmp_path / "out")) == media(tmp_path / "in")


@pytest.mark.parametrize("on_conflict", ["rebase", "force"])
def test_the_files_of_two_writers_keep_their_places(
    store: ObjectStore, tmp_path: Path, on_conflict: OnConflict
) -> None:
    commit(store, tmp_path / "in", make(tmp_path / "in", 100))
    head = read_head(store, "d")
    theirs = make(tmp_path / "theirs", 100)
    (tmp_path / "theirs/clips/3.mp4").write_bytes(b"theirs")
    newer = commit(store, tmp_path / "theirs", theirs)
    own = make(tmp_path / "own", 200)
    made = commit_dataset(store, "d", tmp_path / "own", own, (), head=head, on_conflict=on_conflict)
    assert (made.parent, len(made.reader(store).files.ranges)) == (newer.id, 1)
    assert verify_commits(store, [made]).damaged == ()
    copy = media(copied(store, made, tmp_path / "out"))
    assert (copy["clips/3.mp4"] == b"theirs") == (on_conflict == "rebase")
    assert len(places(store, made)) == (199 if on_conflict == "rebase" else 200)


def test_files_close_to_each_other_are_read_at_once() -> None:
    rows = [FileRow(f"{number}", f"{number:064x}", 1000) for number in range(400)]
    at = {row.sha256: Place("a" * 64, 1000 * number) for number, row in enumerate(rows)}
    assert [(one.offset, one.length) for one in spans_of(rows, at)] == [(0, 400_000)]
    few = [rows[0], rows[5], rows[300], rows[301]]
    assert [(one.offset, one.length) for one in spans_of(few, at)] == [(0, 6000), (300_000, 2000)]
    assert blob_key("a" * 64) == at[rows[0].sha256].key
    assert list(spans_of(rows, {})) == []
