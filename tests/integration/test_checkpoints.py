"""Checkpoints on a real S3 server: complete or absent, with every byte verified."""

import itertools
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llava_av.checkpoints import (
    CheckpointError,
    CheckpointRef,
    CheckpointState,
    fetch_checkpoint,
    latest_checkpoint,
    prune,
    read_manifest,
    state_digest,
    write_checkpoint,
)
from llava_av.storage import ObjectStore, map_parallel

pytestmark = pytest.mark.integration

CONTENT = {"weights.bin": b"w" * 5000, "optimizer/rank0.pt": b"o" * 300, "optimizer/rank1.pt": b"p" * 300}


@pytest.fixture
def store(store_environment: Mapping[str, str]) -> ObjectStore:
    found = ObjectStore.from_env(store_environment)
    found.ensure_bucket()
    return found


@pytest.fixture
def run() -> str:
    return uuid.uuid4().hex[:16]


def state(step: int, seed: int = 0) -> CheckpointState:
    return CheckpointState(digest=state_digest({"step": step, "seed": seed}), data_position={"step": step})


def write(
    store: ObjectStore,
    run: str,
    step: int,
    folder: Path,
    *,
    seed: int = 0,
    mark: bytes = b"",
    replace: bool = False,
) -> CheckpointRef:
    files = {}
    for name, content in CONTENT.items():
        files[name] = folder / f"{uuid.uuid4().hex}"
        files[name].write_bytes(content + str(step).encode() + mark)
    extra = {"recipe": {"seed": seed}}
    return write_checkpoint(store, run, step, files, state(step, seed), extra=extra, replace=replace)


def key(store: ObjectStore, ref: CheckpointRef, name: str) -> str:
    return f"{store.key(ref.uri)}/{name}"


def test_a_checkpoint_is_restored_as_written(store: ObjectStore, run: str, tmp_path: Path) -> None:
    assert latest_checkpoint(store, run) is None
    write(store, run, 5, tmp_path)
    ref = write(store, run, 10, tmp_path)
    assert ref.uri == store.uri(f"checkpoints/{run}/step-00000010")
    assert latest_checkpoint(store, run) == ref
    manifest = fetch_checkpoint(store, ref.uri, tmp_path / "all")
    assert (manifest.step, manifest.digest, manifest.data_position) == (10, ref.digest, {"step": 10})
    assert manifest.extra == {"recipe": {"seed": 0}}
    assert {name: (tmp_path / "all" / name).read_bytes() for name in manifest.files} == {
        name: content + b"10" for name, content in CONTENT.items()
    }


def test_only_requested_files_are_fetched(store: ObjectStore, run: str, tmp_path: Path) -> None:
    ref = write(store, run, 1, tmp_path)
    fetch_checkpoint(store, ref.uri, tmp_path / "some", names=["weights.bin"])
    assert [path.name for path in (tmp_path / "some").rglob("*")] == ["weights.bin"]
    with pytest.raises(CheckpointError, match=r"no file else\.bin; it has optimizer/rank0\.pt"):
        fetch_checkpoint(store, ref.uri, tmp_path / "some", names=["else.bin"])


def test_a_good_local_file_is_kept_and_a_wrong_one_replaced(
    store: ObjectStore, run: str, tmp_path: Path
) -> None:
    ref = write(store, run, 1, tmp_path)
    fetch_checkpoint(store, ref.uri, tmp_path / "local")
    wrong = tmp_path / "local/optimizer/rank1.pt"
    wrong.write_bytes(b"x" * wrong.stat().st_size)
    store.delete(key(store, ref, "weights.bin"))
    fetch_checkpoint(store, ref.uri, tmp_path / "local")
    assert wrong.read_bytes() == CONTENT["optimizer/rank1.pt"] + b"1"


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(CONTENT)), place=st.integers(0, 1 << 16), bits=st.integers(1, 255))
def test_one_altered_byte_is_found_and_its_file_named(
    store: ObjectStore, run: str, tmp_path: Path, name: str, place: int, bits: int
) -> None:
    ref = write(store, run, 1, tmp_path)
    good = store.get_bytes(key(store, ref, name))
    bad = bytearray(good)
    bad[place % len(bad)] ^= bits
    out = tmp_path / uuid.uuid4().hex
    store.put_bytes(key(store, ref, name), bytes(bad))
    try:
        with pytest.raises(CheckpointError, match=f"file {name} is altered"):
            fetch_checkpoint(store, ref.uri, out)
        assert not (out / name).exists()
    finally:
        store.put_bytes(key(store, ref, name), good)


def test_damage_visible_in_sizes_is_skipped(
    store: ObjectStore, run: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, short, gone, unreadable = (write(store, run, step, tmp_path) for step in (1, 2, 3, 4))
    store.put_bytes(key(store, short, "weights.bin"), b"w")
    store.delete(key(store, gone, "optimizer/rank0.pt"))
    store.put_bytes(key(store, unreadable, "manifest.json"), b'{"step": 4}')
    assert latest_checkpoint(store, run) == whole
    assert "file weights.bin has 1 bytes, not 5001" in caplog.text
    assert "file optimizer/rank0.pt is missing" in caplog.text
    assert "manifest.json is damaged" in caplog.text
    with pytest.raises(CheckpointError, match=r"file weights\.bin is truncated"):
        fetch_checkpoint(store, short.uri, tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"file optimizer/rank0\.pt is missing"):
        fetch_checkpoint(store, gone.uri, tmp_path / "out")
    for ref in (short, gone, unreadable):
        assert write(store, run, ref.step, tmp_path) == ref
        fetch_checkpoint(store, ref.uri, tmp_path / f"anew-{ref.step}")


def test_a_missing_checkpoint_is_one_line(store: ObjectStore, run: str, tmp_path: Path) -> None:
    uri = store.uri(f"checkpoints/{run}/step-00000001")
    with pytest.raises(CheckpointError, match=r"no complete checkpoint at .*step-00000001 \(it has no"):
        fetch_checkpoint(store, uri, tmp_path)


def test_a_step_has_one_state(store: ObjectStore, run: str, tmp_path: Path) -> None:
    ref = write(store, run, 1, tmp_path)
    before = read_manifest(store, ref.uri)
    assert write(store, run, 1, tmp_path, mark=b"other bytes, same state") == ref
    assert read_manifest(store, ref.uri) == before
    fetch_checkpoint(store, ref.uri, tmp_path / "out")
    with pytest.raises(CheckpointError, match="exists with another state"):
        write(store, run, 1, tmp_path, seed=1)
    fetch_checkpoint(store, ref.uri, tmp_path / "again")


def flip_byte(store: ObjectStore, ref: CheckpointRef, name: str) -> None:
    content = bytearray(store.get_bytes(key(store, ref, name)))
    content[7] ^= 1
    store.put_bytes(key(store, ref, name), bytes(content))


def test_a_damaged_checkpoint_is_written_again(
    store: ObjectStore, run: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ref = write(store, run, 1, tmp_path)
    flip_byte(store, ref, "optimizer/rank0.pt")
    assert write(store, run, 1, tmp_path) == ref
    assert "file optimizer/rank0.pt is altered" in caplog.text
    fetch_checkpoint(store, ref.uri, tmp_path / "out")


def test_a_diverging_checkpoint_is_replaced_on_request_and_both_digests_are_named(
    store: ObjectStore, run: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = write(store, run, 1, tmp_path)
    after = write(store, run, 1, tmp_path, seed=1, mark=b"another", replace=True)
    assert before.digest in caplog.text
    assert after.digest in caplog.text
    assert latest_checkpoint(store, run) == after
    fetch_checkpoint(store, after.uri, tmp_path / "out")
    assert (tmp_path / "out/weights.bin").read_bytes().endswith(b"another")


@pytest.mark.parametrize("after", range(2 * (len(CONTENT) + 1)))
def test_a_kill_while_replacing_leaves_a_complete_checkpoint_or_none(
    store: ObjectStore, run: str, tmp_path: Path, after: int
) -> None:
    first, second = (write(store, run, step, tmp_path) for step in (1, 2))
    with pytest.raises(_Killed):
        write(dying(store, after), run, 2, tmp_path, seed=1, mark=b"another", replace=True)
    latest = latest_checkpoint(store, run)
    assert latest == (second if after == 0 else first)
    fetch_checkpoint(store, latest.uri, tmp_path / "out")
    third = write(store, run, 2, tmp_path, seed=1, mark=b"another", replace=True)
    fetch_checkpoint(store, third.uri, tmp_path / "new")


def test_pruning_counts_only_complete_checkpoints(store: ObjectStore, run: str, tmp_path: Path) -> None:
    refs = [write(store, run, step, tmp_path) for step in (1, 2, 3, 4)]
    for ref in refs[1:3]:
        store.delete(key(store, ref, "weights.bin"))
    assert prune(store, run, 2) == (2, 3)
    for ref in (refs[0], refs[3]):
        fetch_checkpoint(store, ref.uri, tmp_path / f"{ref.step}")


def test_racing_writers_of_one_state_leave_one_checkpoint(
    store: ObjectStore, run: str, tmp_path: Path
) -> None:
    refs = map_parallel(lambda _: write(store, run, 1, tmp_path), range(4))
    assert len(set(map(str, refs))) == 1
    fetch_checkpoint(store, refs[0].uri, tmp_path / "out")


class _Killed(Exception):
    """Simulated end of the process."""


class DyingStore(ObjectStore):
    """Store whose process ends at its n-th change, which no longer happens, as all later ones."""

    changes_left: "itertools.count[int]"

    def _change(self) -> None:
        if next(self.changes_left) >= 0:
            raise _Killed

    def put_file(self, key: str, path: Path, *, check: Callable[[], None] = lambda: None) -> None:
        self._change()
        super().put_file(key, path, check=check)

    def create(self, key: str, data: bytes) -> bool:
        self._change()
        return super().create(key, data)

    def delete(self, key: str) -> None:
        self._change()
        super().delete(key)


def dying(store: ObjectStore, after: int) -> Any:
    found = DyingStore(store.settings)
    found.changes_left = itertools.count(-after)
    return found


@pytest.mark.parametrize("after", range(len(CONTENT) + 1))
def test_a_kill_while_writing_leaves_the_checkpoint_before(
    store: ObjectStore, run: str, tmp_path: Path, after: int
) -> None:
    first = write(store, run, 1, tmp_path)
    with pytest.raises(_Killed):
        write(dying(store, after), run, 2, tmp_path)
    assert latest_checkpoint(store, run) == first
    second = write(store, run, 2, tmp_path, mark=b"written anew")
    assert latest_checkpoint(store, run) == second
    fetch_checkpoint(store, second.uri, tmp_path / "out")


@pytest.mark.parametrize("after", range(2 * (len(CONTENT) + 1)))
def test_a_kill_while_pruning_leaves_only_complete_checkpoints(
    store: ObjectStore, run: str, tmp_path: Path, after: int
) -> None:
    refs = [write(store, run, step, tmp_path) for step in (1, 2, 3)]
    with pytest.raises(_Killed):
        prune(dying(store, after), run, 1)
    for ref in refs:
        if store.exists(key(store, ref, "manifest.json")):
            fetch_checkpoint(store, ref.uri, tmp_path / f"{ref.step}")
    prune(store, run, 1)
    assert {info.key.split("/")[2] for info in store.list(f"checkpoints/{run}/")} == {"step-00000003"}


def test_pruning_keeps_the_newest_and_deletes_remains(store: ObjectStore, run: str, tmp_path: Path) -> None:
    refs = [write(store, run, step, tmp_path) for step in (1, 2, 4)]
    for step in (3, 5):
        store.put_bytes(f"checkpoints/{run}/step-{step:08d}/weights.bin", b"half")
    assert prune(store, run, 2) == (1, 3)
    steps = {info.key.split("/")[2] for info in store.list(f"checkpoints/{run}/")}
    assert steps == {"step-00000002", "step-00000004", "step-00000005"}
    for ref in refs[1:]:
        fetch_checkpoint(store, ref.uri, tmp_path / f"{ref.step}")
    with pytest.raises(ValueError, match="keep=0 must be at least 1"):
        prune(store, run, 0)


@pytest.mark.parametrize("name", ["../up", "/etc/x", "a/../../b", "manifest.json", "", "a//b"])
def test_a_file_cannot_leave_its_checkpoint(store: ObjectStore, run: str, tmp_path: Path, name: str) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x")
    with pytest.raises(ValueError, match="not a file name inside a checkpoint"):
        write_checkpoint(store, run, 1, {name: source}, state(1), extra={})
    assert not list(store.list(f"checkpoints/{run}/"))


def test_a_run_cannot_leave_its_prefix(store: ObjectStore) -> None:
    with pytest.raises(CheckpointError, match="cannot name a run"):
        latest_checkpoint(store, "../datasets")
