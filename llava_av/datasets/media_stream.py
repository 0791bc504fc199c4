"""Media of the next steps, fetched ahead into the cache of the node and released after their use."""

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from llava_av.datasets.blob_cache import NEVER, BlobCache
from llava_av.datasets.commit_files import CommitFile
from llava_av.datasets.manifest import CommitError, safe_path
from llava_av.datasets.media_source import MediaSource
from llava_av.datasets.schema import Sample
from llava_av.media.info import MediaInfo

__all__ = ["CACHE_FOLDER", "MediaStream", "streamed_files"]

CACHE_FOLDER = "cache"
"""Name of the folder in the working folder that the processes of a node share."""

_THREADS = 8
# A file that is read before its step is announced is needed in one of the next steps.
_SOON = 8
# The other half keeps what later steps need again.
_AHEAD_SHARE = 0.5


@dataclass(kw_only=True)
class _Held:
    """A file that is fetched, or waits to be fetched."""

    file: CommitFile
    steps: set[int] = field(default_factory=set)
    """Expected steps that have not used it yet."""
    next_use: int = NEVER
    """Step that uses it after these."""
    users: int = 0
    """Number of blocks that use it."""
    path: Future[Path] | None = None
    """Path in the cache; None while the file waits."""


class MediaStream:
    """Media of the samples that one process reads, in the order of their use.

    Files are fetched ahead as far as this process's share of the cache allows. A file is released when the
    last expected step has used it. The stream is a `llava_av.datasets.media_source.MediaSource`.

    Args:
        cache: Cache of the node.
        find: Returns the file of the datasets with a normalized path; None if they have none.
        processes: Number of processes that share the cache.
    """

    def __init__(self, cache: BlobCache, find: Callable[[str], CommitFile | None], *, processes: int) -> None:
        """Start the threads that fetch."""
        self._cache, self._find = cache, find
        self._most_bytes = int(cache.max_bytes * _AHEAD_SHARE / processes)
        self._lock = threading.RLock()
        self._held: dict[str, _Held] = {}
        self._waiting: deque[_Held] = deque()
        self._bytes = 0
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="media")

    def expect(self, step: int, uses: Iterable[tuple[Sample, int | None]]) -> None:
        """Announce the samples of a step, each with the next step that uses it or None; steps ascend."""
        with self._lock:
            for sample, next_use in uses:
                for file in map(self._file, sample.media):
                    held = self._held.get(file.row.sha256)
                    if held is None:
                        held = self._held[file.row.sha256] = _Held(file=file)
                        self._waiting.append(held)
                    held.steps.add(step)
                    held.next_use = NEVER if next_use is None else next_use
            self._fetch_ahead()

    def finish(self, step: int) -> None:
        """Release the files that only steps up to this one needed."""
        self._cache.now = step + 1
        with self._lock:
            for held in list(self._held.values()):
                held.steps = {each for each in held.steps if each > step}
                self._forget_unused(held)
            self._fetch_ahead()

    @contextlib.contextmanager
    def files(self, sample: Sample) -> Iterator[Mapping[str, Path]]:
        """Provide the path of each media file of a sample for a block; a path is fetched when it is read."""
        used = _UsedFiles(sample, self._use)
        try:
            yield used
        finally:
            for held in used.held:
                self._end_use(held)

    @property
    def with_headers(self) -> MediaSource:
        """Return the same media without recorded properties, which are read for a whole range of files."""
        return _WithHeaders(self)

    def info(self, name: str) -> MediaInfo | None:
        """Return the recorded properties of a file; None if they are unknown."""
        file = self._find(safe_path(name))
        return None if file is None else file.commit.info(file.row)

    def close(self) -> None:
        """Release all files."""
        self._pool.shutdown(cancel_futures=True)
        for held in self._held.values():
            self._release(held, held.next_use)

    def _file(self, name: str) -> CommitFile:
        file = self._find(safe_path(name))
        if file is None:
            raise CommitError(f"a sample names {name}, which its commit does not contain: commit again")
        return file

    def _use(self, name: str) -> tuple[_Held, Future[Path]]:
        """Return a file that a block uses, and the future of its path."""
        file = self._file(name)
        with self._lock:
            held = self._held.setdefault(file.row.sha256, _Held(file=file, next_use=self._cache.now + _SOON))
            held.users += 1
            return held, held.path or self._fetch(held)

    def _end_use(self, held: _Held) -> None:
        """Count the first expected use as done, and release the file if no other follows soon."""
        with self._lock:
            held.users -= 1
            held.steps.discard(min(held.steps, default=0))
            self._forget_unused(held)
            if held.steps and not held.users and self._bytes > self._most_bytes:
                # Other files are needed earlier.
                self._release(held, min(held.steps))
                self._waiting.append(held)
            self._fetch_ahead()

    def _fetch_ahead(self) -> None:
        while self._waiting:
            first = self._waiting[0]
            if first.path is None and self._held.get(first.file.row.sha256) is first:
                if self._bytes and self._bytes + first.file.row.bytes > self._most_bytes:
                    return
                self._fetch(first)
            self._waiting.popleft()

    def _fetch(self, held: _Held) -> Future[Path]:
        self._bytes += held.file.row.bytes
        held.path = self._pool.submit(self._cache.claim, held.file)
        return held.path

    def _forget_unused(self, held: _Held) -> None:
        if not held.steps and not held.users:
            del self._held[held.file.row.sha256]
            self._release(held, held.next_use)

    def _release(self, held: _Held, next_use: int) -> None:
        if held.path is not None:
            self._bytes -= held.file.row.bytes
            held.path.add_done_callback(partial(self._released, next_use))
            held.path = None

    def _released(self, next_use: int, path: Future[Path]) -> None:
        if not path.cancelled() and path.exception() is None:
            self._cache.release(path.result(), next_use)


class _WithHeaders:
    """Media whose properties are read from headers."""

    def __init__(self, stream: MediaStream) -> None:
        self.files = stream.files

    def info(self, name: str) -> MediaInfo | None:
        return None


class _UsedFiles(Mapping[str, Path]):
    """Files of a sample that a block uses."""

    def __init__(self, sample: Sample, use: Callable[[str], tuple[_Held, Future[Path]]]) -> None:
        self._names, self._use = dict.fromkeys(sample.media), use
        self._paths: dict[str, Future[Path]] = {}
        self.held: list[_Held] = []

    def __getitem__(self, name: str) -> Path:
        if name not in self._paths:
            held, self._paths[name] = self._use(name)
            self.held.append(held)
        return self._paths[name].result()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@contextlib.contextmanager
def streamed_files(find: Callable[[str], CommitFile | None], work: Path) -> Iterator[MediaStream]:
    """Provide the media of a job for a block; all processes of the node share one cache.

    Args:
        find: See `MediaStream`.
        work: Working folder of the node.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    with (
        contextlib.closing(BlobCache(work / CACHE_FOLDER)) as cache,
        contextlib.closing(MediaStream(cache, find, processes=processes)) as stream,
    ):
        yield stream
