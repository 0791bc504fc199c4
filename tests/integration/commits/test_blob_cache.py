"""Cache of blobs that processes and jobs share, against a real object store."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from llava_av.datasets import packs
from llava_av.datasets.blob_cache import NEVER, BlobCache, cache_bytes
from llava_av.datasets.commit_files import CommitFile, CommitFiles
from llava_av.datasets.commits import Commit, find_commit
from llava_av.datasets.manifest import CommitError, blob_key
from llava_av.datasets.media_stream import MediaStream
from llava_av.datasets.schema import Sample
from llava_av.errors import UserError
from llava_av.media.info import MediaError
from llava_av.processes.variables import DATA_CACHE_VARIABLE
from llava_av.storage import ObjectStore, StoreError
from tests.fault_proxy import ALWAYS, fault_proxy
from tests.integration.commits.folders import commit, make, sample

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

SIZE = 250
OPENED = """
import os, sys, pathlib
from llava_av.datasets.blob_cache import BlobCache
from llava_av.datasets.commit_files import CommitFiles
from llava_av.datasets.commits import find_commit
from llava_av.storage import ObjectStore
store = ObjectStore.from_env()
cache = BlobCache(pathlib.Path(sys.argv[1]), max_bytes=10**6)
commit = find_commit(store, "d")
files = CommitFiles(store, commit, pathlib.Path(sys.argv[1]) / "files")
"""


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commit each small file as a blob of its own."""
    monkeypatch.setattr(packs, "_FEWEST", 20)


@pytest.fixture
def files(store: ObjectStore, tmp_path: Path) -> list[CommitFile]:
    """Return ten files of a commit."""
    made = commit(store, tmp_path / "in", make(tmp_path / "in", count=10, size=4 * SIZE))
    return of_commit(store, made, tmp_path / "ranges")


def of_commit(store: ObjectStore, made: Commit, folder: Path) -> list[CommitFile]:
    found = CommitFiles(store, made, folder)
    return [file for row in made.reader(store).files if (file := found.find(row.path)) is not None]


def cached(folder: Path) -> set[str]:
    return {path.name for path in (folder / "blobs").iterdir()}


def in_process(code: str, folder: Path, *arguments: str) -> list[str]:
    """Return the command of a process that runs code after `OPENED`, with the cache in a folder."""
    return [sys.executable, "-c", f"{OPENED}{code}", str(folder), *arguments]


def used(cache: BlobCache, file: CommitFile, next_use: int) -> None:
    cache.release(cache.claim(file), next_use)


def test_blobs_that_are_needed_last_are_evicted_and_claimed_ones_never(
    store: ObjectStore, files: list[CommitFile], tmp_path: Path
) -> None:
    cache = BlobCache(tmp_path / "cache", max_bytes=5 * SIZE)
    claimed = cache.claim(files[0])
    for file, next_use in zip(files[1:5], (7, 40, 3, NEVER), strict=True):
        used(cache, file, next_use)
    assert cached(tmp_path / "cache") == {file.row.sha256 for file in files[:5]}
    used(cache, files[5], 9)
    assert cached(tmp_path / "cache") == {files[place].row.sha256 for place in (0, 1, 3, 5)}
    # Blobs in use exceed the limit rather than stop the training.
    more = [cache.claim(file) for file in files]
    assert [path.read_bytes() for path in more] == [
        store.get_bytes(blob_key(file.row.sha256)) for file in files
    ]
    for path in (claimed, *more):
        cache.release(path, NEVER)


def test_processes_download_a_blob_once(
    store: ObjectStore, store_environment: Mapping[str, str], files: list[CommitFile], tmp_path: Path
) -> None:
    command = in_process(
        "found = [files.find(row.path) for row in commit.reader(store).files]\n"
        "print([os.stat(cache.claim(file)).st_ino for file in found], flush=True)\n"
        "sys.stdin.read()\ncache.close()\n",
        tmp_path / "cache",
    )
    environment = {**os.environ, **store_environment}
    workers = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    seen = {worker.stdout.readline() for worker in workers if worker.stdout}
    own = [(tmp_path / "cache/blobs" / file.row.sha256).stat().st_ino for file in files]
    assert seen == {f"{own}\n"}
    for worker in workers:
        worker.communicate()
    assert [worker.returncode for worker in workers] == [0, 0]
    assert not list((tmp_path / "cache/claims").iterdir())


def test_a_damaged_copy_is_downloaded_again(
    store: ObjectStore, files: list[CommitFile], tmp_path: Path
) -> None:
    cache = BlobCache(tmp_path / "cache", max_bytes=10**6)
    for content in (b"", b"x" * SIZE):
        used(cache, files[0], 1)
        (tmp_path / "cache/blobs" / files[0].row.sha256).write_bytes(content)
        assert cache.claim(files[0]).read_bytes() == store.get_bytes(blob_key(files[0].row.sha256))


@pytest.mark.parametrize("damage", ["alter", "lose"])
def test_a_blob_that_the_store_lost_or_damaged_is_a_bad_file(
    store: ObjectStore, files: list[CommitFile], tmp_path: Path, damage: str
) -> None:
    store.delete(blob_key(files[0].row.sha256))
    if damage == "alter":
        store.put_bytes(blob_key(files[0].row.sha256), b"x" * SIZE)
    cache = BlobCache(tmp_path / "cache", max_bytes=10**6)
    with pytest.raises(
        MediaError, match=f"{files[0].row.path}: is {'damaged' if damage == 'alter' else 'lost'}"
    ):
        cache.claim(files[0])
    assert not cached(tmp_path / "cache")


def test_a_store_that_stalls_is_one_line(store: ObjectStore, files: list[CommitFile], tmp_path: Path) -> None:
    with fault_proxy(urlsplit(store.endpoint).netloc) as proxy:
        proxy.fail("stall", attempts=ALWAYS)
        hasty = ObjectStore(replace(store.settings, endpoint=proxy.url, retry_s=0.5, stall_s=1))
        file = files[0]._replace(commit=CommitFiles(hasty, find_commit(store, "d"), tmp_path / "ranges"))
        with pytest.raises(StoreError, match=file.row.sha256):
            BlobCache(tmp_path / "cache", max_bytes=10**6).claim(file)
        assert not cached(tmp_path / "cache")


def test_files_are_found_by_their_path_and_ranges_are_read_once(
    store: ObjectStore, files: list[CommitFile], tmp_path: Path
) -> None:
    assert [file.row for file in files] == list(find_commit(store, "d").reader(store).files)
    [kept] = (tmp_path / "ranges/d").iterdir()
    store.delete(blob_key(kept.name))
    again = CommitFiles(store, find_commit(store, "d"), tmp_path / "ranges")
    assert again.find(files[3].row.path) == (files[3].row, None, again)
    for absent in ("clips/", "clips/99.mp4", "a", "zzz"):
        assert again.find(absent) is None
    kept.write_bytes(kept.read_bytes()[:-1] + b"?")
    with pytest.raises(CommitError, match="lost"):
        CommitFiles(store, find_commit(store, "d"), tmp_path / "ranges").find(files[3].row.path)


def test_files_in_packs_are_read_even_if_a_repair_has_moved_them(store: ObjectStore, tmp_path: Path) -> None:
    made = commit(store, tmp_path / "in", make(tmp_path / "in", count=70, size=4 * SIZE))
    files = of_commit(store, made, tmp_path / "ranges")
    assert all(file.place is not None for file in files)
    cache = BlobCache(tmp_path / "cache", max_bytes=10**6)
    for file in files[:3]:
        assert cache.claim(file).read_bytes() == (tmp_path / "in" / file.row.path).read_bytes()
    for file in files:
        store.put_file(blob_key(file.row.sha256), tmp_path / "in" / file.row.path)
    for info in store.list("datasets/d/packs/"):
        store.delete(info.key)
    assert files[3].place is not None
    store.delete(files[3].place.key)
    assert cache.claim(files[3]).read_bytes() == (tmp_path / "in" / files[3].row.path).read_bytes()


def test_a_killed_process_leaves_nothing_behind(
    store: ObjectStore, store_environment: Mapping[str, str], files: list[CommitFile], tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    command = in_process("cache.claim(files.find(sys.argv[2]))", folder, files[0].row.path)
    with fault_proxy(urlsplit(store.endpoint).netloc) as proxy:
        proxy.only = files[0].row.sha256
        proxy.fail("stall", attempts=ALWAYS)
        environment = {**os.environ, **store_environment, "AWS_ENDPOINT_URL_S3": proxy.url}
        worker = subprocess.Popen(command, env=environment)
        while not proxy.met:
            assert worker.poll() is None
            time.sleep(0.02)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    cache = BlobCache(folder, max_bytes=10**6)
    assert len(list((folder / "claims").iterdir())) == 1
    assert cache.claim(files[0]).stat().st_size == SIZE


def test_the_size_is_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_CACHE_VARIABLE, "3")
    assert cache_bytes(tmp_path) == 3_000_000
    for wrong in ("0", "-1", "1.5", "much"):
        monkeypatch.setenv(DATA_CACHE_VARIABLE, wrong)
        with pytest.raises(UserError, match=f"{DATA_CACHE_VARIABLE}='{wrong}'"):
            cache_bytes(tmp_path)


class Streamed:
    """A stream of the ten files, in a cache of some bytes."""

    def __init__(self, files: list[CommitFile], folder: Path, max_bytes: int) -> None:
        by_path = {file.row.path: file for file in files}
        self.folder, self.samples = folder, [sample(number, path) for number, path in enumerate(by_path)]
        self.cache = BlobCache(folder, max_bytes=max_bytes)
        self.stream = MediaStream(self.cache, by_path.get, processes=1)

    def read(self, one: Sample) -> bytes:
        with self.stream.files(one) as files:
            return files[one.video[0]].read_bytes()

    @property
    def claims(self) -> int:
        return sum(1 for _ in self.folder.glob("claims/*/*-*"))

    def close(self) -> None:
        self.stream.close()
        self.cache.close()


@pytest.mark.parametrize("max_bytes", [1, 3 * SIZE, 10**6])
def test_a_stream_reads_every_file_with_a_cache_of_any_size(
    store: ObjectStore, files: list[CommitFile], tmp_path: Path, max_bytes: int
) -> None:
    streamed = Streamed(files, tmp_path / "cache", max_bytes)
    for step in (0, 1):
        uses = [(one, step + 1 if step == 0 else None) for one in streamed.samples]
        streamed.stream.expect(step, uses)
    expected = [store.get_bytes(blob_key(file.row.sha256)) for file in files]
    for step in (0, 1):
        assert [streamed.read(one) for one in streamed.samples] == expected
        streamed.stream.finish(step)
    assert streamed.claims == 0
    size = sum(path.stat().st_size for path in (tmp_path / "cache/blobs").iterdir())
    assert size <= max(max_bytes, 2 * SIZE)
    streamed.close()


def test_files_that_no_sample_of_the_step_read_are_given_back(
    files: list[CommitFile], tmp_path: Path
) -> None:
    streamed = Streamed(files, tmp_path / "cache", 10**6)
    streamed.stream.expect(4, [(one, None) for one in streamed.samples[:3]])
    streamed.stream.expect(5, [(one, 9) for one in streamed.samples[2:4]])
    streamed.read(streamed.samples[2])
    assert streamed.read(streamed.samples[9])
    streamed.stream.finish(4)
    streamed.stream.close()
    assert streamed.claims == 0
    next_uses = [(tmp_path / "cache/blobs" / file.row.sha256).stat().st_mtime for file in files[:4]]
    assert next_uses == [NEVER, NEVER, 9, 9]
    streamed.cache.close()
