"""One process of an ingest: read a share of the source; rank zero then commits all of it.

The shares follow from the names of the files. Each process sends what it learns about files to the store, and
starts with all stored results, so a restart continues. When all processes have finished, rank zero copies
their results to its file cache and commits the source like a single process, which reads only files without
results. The commit therefore does not depend on the number of processes.
"""

import contextlib
import hashlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llava_av.datasets.ingest_results import ResultSender, SharedCache, delete_results, read_ingest_results
from llava_av.datasets.media_checks import MediaChecks
from llava_av.datasets.sources.file_checks import FileCheck, check_files, folder_check
from llava_av.datasets.sources.folder import media_names
from llava_av.datasets.sources.remote import RemoteFolder
from llava_av.datasets.sources.rows import Rows, find_rows
from llava_av.plurals import count_of
from llava_av.processes import progress_reporter
from llava_av.processes.allocator import return_large_blocks
from llava_av.storage import ObjectStore
from llava_av.workflows.ingest.request import CommitRequest

__all__ = ["COMMITTED", "ingest", "share_of"]

_LOG = logging.getLogger(__name__)

COMMITTED = "committed "
"""Start of the line with the summary of the commit as JSON."""
_JOIN_S, _POLL_S = 600.0, 0.2


def ingest(run: str, work: Path, *, request: str) -> None:
    """Read the share of one process; rank zero then commits and prints the summary of the commit.

    Args:
        run: ID of the ingest.
        work: Local folder for the file cache.
        request: `CommitRequest` as JSON.

    Raises:
        UserError: As for `commit_folder`.
    """
    return_large_blocks()
    wanted = CommitRequest.model_validate_json(request)
    group = _Group(rank=int(os.environ.get("RANK", "0")), size=int(os.environ.get("WORLD_SIZE", "1")))
    store = ObjectStore.from_env()
    store.ensure_bucket()
    with (
        _watched(group.size),
        _cache_file(wanted, work / f"ingest-{run}-{group.rank}.sqlite") as file,
    ):
        _read_share(store, wanted, run, file, group)
        group.finish()
        if group.rank:
            group.wait_for_commit()
            return
        group.wait_for_all()
        _adopt_results(store, run, file)
        committed = wanted.commit(store, file)
        delete_results(store, run)
        # The log may hide lines, but not this result.
        sys.stdout.write(f"{COMMITTED}{committed.model_dump_json()}\n")
        sys.stdout.flush()
        group.announce_commit()


@contextlib.contextmanager
def _watched(size: int) -> Iterator[None]:
    """Join the group of several processes for a block, and end this one if another one is lost."""
    if size == 1:
        yield
        return
    # PyTorch is slow to load, and a single process does not need it.
    from torch import distributed

    from llava_av.processes.heartbeat import COLLECTIVE_LIMIT, Limits, beating
    from llava_av.processes.joining import joining

    limits = Limits.from_env()
    with joining(limits):
        distributed.init_process_group("gloo", timeout=COLLECTIVE_LIMIT)
    with beating(limits):
        yield
    distributed.destroy_process_group()


class _Group:
    """Processes of the job, which synchronize through torchrun's key-value store."""

    def __init__(self, *, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._store = _group_store() if size > 1 else None

    def finish(self) -> None:
        """Tell the others that this process has read its share."""
        self._set(f"ingest/{self.rank}")

    def wait_for_all(self) -> None:
        """Wait until all processes have read their shares."""
        self._wait([f"ingest/{rank}" for rank in range(self.size)])

    def announce_commit(self) -> None:
        """Tell the others that the commit is complete."""
        self._set("ingest/committed")

    def wait_for_commit(self) -> None:
        """Wait until rank zero has committed; if it fails, torchrun or the heartbeat ends this process."""
        self._wait(["ingest/committed"])

    def _set(self, key: str) -> None:
        if self._store is not None:
            self._store.set(key, "1")

    def _wait(self, keys: list[str]) -> None:
        while self._store is not None and not self._store.check(keys):
            time.sleep(_POLL_S)


def _group_store() -> Any:
    # PyTorch is slow to load, and a single process does not need it.
    from llava_av.processes.stalls import group_store

    return group_store(_JOIN_S)


@contextlib.contextmanager
def _cache_file(request: CommitRequest, own: Path) -> Iterator[Path]:
    """Yield this machine's file cache if the request names it, else an empty one of this process."""
    if request.cache_file:
        yield Path(request.cache_file)
        return
    own.unlink(missing_ok=True)
    try:
        yield own
    finally:
        own.unlink(missing_ok=True)


def _read_share(store: ObjectStore, request: CommitRequest, run: str, file: Path, group: _Group) -> None:
    """Read and check this process's share of the files, and send the results."""
    with SharedCache(file) as cache:
        known = 0
        for facts in read_ingest_results(store, run):
            cache.copy(facts)
            known += len(facts)
        if known:
            _LOG.info(
                "rank %d of %d finds %s in the store", group.rank, group.size, count_of(known, "result")
            )
        checks = MediaChecks(cache, store, depth=request.depth, again=request.again)
        sender = ResultSender(store, run, cache)
        progress = progress_reporter("data", "files checked by rank zero")
        with _opened(request.open_source(store), checks) as (rows, check):
            names = [name for name in media_names(rows) if share_of(name, group.size) == group.rank]
            try:
                for done, _ in enumerate(check_files(names, check), start=1):
                    if group.rank == 0:
                        progress(done, len(names))
                    sender.send_if_due()
            finally:
                sender.send()


@contextlib.contextmanager
def _opened(source: Path | RemoteFolder, checks: MediaChecks) -> Iterator[tuple[Rows, FileCheck]]:
    if isinstance(source, RemoteFolder):
        with source.opened(checks) as opened:
            yield opened
    else:
        yield find_rows(source), folder_check(source, checks)


def share_of(name: str, size: int) -> int:
    """Return the rank, of `size`, that reads a file."""
    return int.from_bytes(hashlib.sha256(name.encode(errors="surrogatepass")).digest()[:8]) % size


def _adopt_results(store: ObjectStore, run: str, file: Path) -> None:
    """Copy the results of all processes to the file cache, and those of decoding to the store's."""
    with SharedCache(file) as cache:
        checks = MediaChecks(cache, store)
        for facts in read_ingest_results(store, run):
            checks.adopt(facts)
        checks.save()
