"""Packs, their readers and results of checks on a real object store behind a proxy that injects faults."""

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from llava_av.datasets.ingest_results import INGESTS, read_ingest_results
from llava_av.datasets.placements import placement_keys
from llava_av.datasets.verification import verify_commits
from llava_av.errors import UserError, explain
from llava_av.storage import ObjectStore, StoreError
from llava_av.training import decode_pool
from tests.data_operations import COUNT, DO, Place
from tests.decoders import decode, new_sample
from tests.fault_proxy import ALWAYS, fault_proxy
from tests.integration.commits.folders import commit, copied, make, media
from tests.small_disks import mounted_disk

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def place(buckets: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    direct, folder = ObjectStore.from_env(buckets.take()), tmp_path_factory.mktemp("faults")
    made = commit(direct, folder / "d", make(folder / "d", COUNT), name="d")
    splits = make(folder / "e", COUNT, salt="e")
    own = {
        split: [one.model_copy(update={"id": f"e{one.id}"}) for one in each] for split, each in splits.items()
    }
    commit(direct, folder / "e", own, name="e")
    with fault_proxy(urlsplit(direct.endpoint).netloc) as proxy:
        yield Place(direct, proxy, folder, made)


class Fault(NamedTuple):
    """A row of the table: a fault of the proxy, how often each request has it, and its outcome."""

    kind: str
    attempts: int
    reported: bool


FAULTS = [
    Fault("500", 1, False),
    Fault("503", 1, False),
    Fault("reset", 1, False),
    Fault("stall", 1, False),
    Fault("truncated", 2, False),
    Fault("wrong byte", 1, False),
    Fault("other range", 1, False),
    Fault("lost reply", 1, False),
    Fault("500", ALWAYS, True),
    Fault("503", ALWAYS, True),
    Fault("reset", ALWAYS, True),
    Fault("stall", ALWAYS, True),
    Fault("truncated", ALWAYS, True),
    Fault("wrong byte", ALWAYS, True),
    Fault("403", ALWAYS, True),
    Fault("expired session", ALWAYS, True),
]


FAST = (Fault("wrong byte", 1, False), Fault("lost reply", 1, False), Fault("expired session", ALWAYS, True))


def slow(is_slow: bool) -> list[pytest.MarkDecorator]:
    return [pytest.mark.slow] * is_slow


def cells() -> Iterator[Any]:
    for operation in DO:
        for fault in FAULTS:
            often = "always" if fault.attempts == ALWAYS else "once"
            name = re.sub(r"\W+", "-", f"{operation}-{fault.kind}-{often}")
            yield pytest.param(operation, fault, marks=slow(fault not in FAST), id=name)


@pytest.mark.parametrize(("operation", "fault"), list(cells()))
def test_a_fault_is_overcome_or_reported(
    place: Place, operation: str, fault: Fault, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    name = request.node.callspec.id
    store = place.hasty(retry_s=0.5 if fault.reported else 60, stall_s=0.5 if fault.kind == "stall" else 30)
    place.proxy.fail(fault.kind, fault.attempts)
    found = None
    try:
        if fault.reported:
            with pytest.raises(UserError, match=rf"s3://{store.bucket}/\S") as caught:
                DO[operation](place, store, name, tmp_path)
            assert "\n" not in str(caught.value)
        else:
            found = DO[operation](place, store, name, tmp_path)
        assert place.proxy.met
    finally:
        place.proxy.fail(None)
    (tmp_path / "again").mkdir()
    again = DO[operation](place, place.direct, name, tmp_path if fault.reported else tmp_path / "again")
    assert fault.reported or again == found


STAGES = {
    "commit": (
        "blobs/",
        "datasets/{}/packs",
        "datasets/{}/manifests",
        "datasets/{}/commits",
        "datasets/{}/refs",
    ),
    "merge": (
        "blobs/",
        "datasets/{}/packs",
        "datasets/{}/commits",
        "datasets/{}/history",
        "datasets/{}/refs",
    ),
    "filter": ("blobs/", "datasets/{}/packs", "datasets/{}/refs"),
    "decode": ("datasets/.checks/",),
    "results": ("datasets/.checks/", "datasets/.ingests/"),
}


FAST_STAGES = {
    ("commit", "blobs", "after"),
    ("commit", "packs", "before"),
    ("commit", "refs", "before"),
    ("commit", "refs", "after"),
    ("merge", "history", "after"),
    ("decode", "checks", "after"),
    ("results", "checks", "after"),
}


def stages() -> Iterator[Any]:
    for operation, keys in STAGES.items():
        for key in keys:
            for when in ("before", "after"):
                stage = key.strip("/.").rpartition("/")[2].strip(".")
                is_fast = (operation, stage, when) in FAST_STAGES
                name = f"killed-{operation}-{when}-{stage}"
                yield pytest.param(operation, key, when, marks=slow(not is_fast), id=name)


@pytest.mark.parametrize(("operation", "key", "when"), list(stages()))
def test_the_next_process_does_what_a_killed_one_has_not_done(
    place: Place, operation: str, key: str, when: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    name = request.node.callspec.id
    place.proxy.fail(f"killed {when}", ALWAYS)
    place.proxy.only = f"PUT /{place.direct.bucket}/{key.format(name)}"
    try:
        with pytest.raises(UserError, match=r"s3://"):
            DO[operation](place, place.hasty(retry_s=0), name, tmp_path)
        assert place.proxy.only == ""
    finally:
        place.proxy.fail(None)
        place.proxy.only = ""
    assert verify_commits(place.direct, [place.commit]).damaged == ()
    if operation in ("commit", "merge", "filter") and (key, when) != ("datasets/{}/refs", "after"):
        assert not place.direct.exists(f"datasets/{name}/refs/main")
    DO[operation](place, place.direct, name, tmp_path)


PAGE = 4096
DISK = 256 * PAGE


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted_disk(tmp_path / "small", str(DISK)) as folder:
        yield folder


LOCAL = {name: DO[name] for name in ("extract", "export", "stream")}
FREE = [pytest.param(free, marks=slow(free != 3)) for free in (0, 1, 2, 3, 5, 7, 9)]
"""Numbers of free pages; with each, the disk is full at another step of an operation."""


@pytest.mark.parametrize("free", FREE)
@pytest.mark.parametrize("operation", LOCAL)
def test_a_full_disk_is_one_line_and_the_next_run_completes(
    place: Place, small_disk: Path, tmp_path: Path, operation: str, free: int
) -> None:
    operate = LOCAL[operation]
    filler = small_disk / "filler"
    (small_disk / "work").mkdir()
    filler.write_bytes(bytes(DISK - free * PAGE))
    with pytest.raises((OSError, UserError)) as caught:
        operate(place, place.direct, "d", small_disk / "work")
    line = explain(caught.value)
    assert line is not None
    assert re.search(rf"no space left on the disk .*{small_disk}", line)
    filler.unlink()
    found = operate(place, place.direct, "d", small_disk / "work")
    assert found == operate(place, place.direct, "d", tmp_path / "whole")


def test_a_truncated_placement_or_result_counts_as_absent(place: Place, tmp_path: Path) -> None:
    root, store = tmp_path / "in", place.direct
    made = commit(store, root, make(root, COUNT, salt="truncated"), name="truncated")
    [key] = placement_keys("truncated", made.manifest)
    whole = store.get_bytes(key)
    store.put_bytes(key, whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"clips/\d+\.mp4 is lost: .*--repair"):
        copied(store, made, tmp_path / "copy")
    assert {one.state for one in verify_commits(store, [made]).damaged} == {"missing"}
    again = commit(store, root, make(root, COUNT + 1, salt="truncated"), name="truncated")
    assert media(copied(store, again, tmp_path / "again")) == media(root)
    store.put_bytes(f"{INGESTS}0123-0.json", b'{"digest x": "y')
    assert list(read_ingest_results(store, "0123")) == []


@pytest.mark.parametrize(
    "ask", [ObjectStore.get_bytes, ObjectStore.find, lambda one, key: one.create(key, b"")]
)
def test_an_expired_session_says_what_to_do(place: Place, ask: Callable[[ObjectStore, str], object]) -> None:
    place.proxy.fail("expired session", ALWAYS)
    try:
        with pytest.raises(UserError, match=r"s3://\S+/refs/main.*AWS_SESSION_TOKEN"):
            ask(place.hasty(), "datasets/d/refs/main")
    finally:
        place.proxy.fail(None)


def test_decoding_with_a_full_disk_for_temporary_files_is_one_line(
    place: Place, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (small_disk / "filler").write_bytes(bytes(DISK))
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    with pytest.raises(StoreError, match=rf"no space left on the disk of {small_disk}:"):
        DO["decode"](place, place.direct, "full", tmp_path)
    (small_disk / "filler").unlink()
    assert len(DO["decode"](place, place.direct, "full", tmp_path)) == 5
    assert list(small_disk.iterdir()) == []


@pytest.mark.slow
def test_full_memory_for_decoded_clips_is_one_line(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_pool, "_memory_folder", lambda: str(small_disk))
    with contextlib.closing(decode_pool.DecodePool(decode, workers=1)) as pool:
        (small_disk / "filler").write_bytes(bytes(DISK))
        one = new_sample(0, "many")
        with pytest.raises(StoreError, match=rf"no space left on the disk of {small_disk}:"):
            pool.result(pool.submit(one), one)
        (small_disk / "filler").unlink()
        assert pool.result(pool.submit(one), one).videos
