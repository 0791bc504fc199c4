"""Bounded cache of blobs on the local disk, shared by the processes of all jobs of a node.

blobs/<sha256>        content; its modification time is the step of its next use, in seconds
claims/<random>/      hard links to the blobs that one process reads, and what it is downloading
locks/<3 hex digits>  locked while a blob whose digest has these first digits is downloaded
lock, usage           lock of the number of bytes in `blobs`, and this number

A process reads a blob through a hard link of its own, so the blob stays readable whatever another process
deletes; only blobs without such a link are evicted, those with the latest next use first. Content is verified
whenever a process claims it, so a file that a crash of the node or a full disk left damaged is downloaded
again. Locks end with their process, and a later process deletes the links of one that was killed.
"""

import contextlib
import fcntl
import itertools
import math
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from llava_av.datasets.commit_files import CommitFile
from llava_av.datasets.manifest import CommitError
from llava_av.datasets.ranges import FileRow
from llava_av.files import file_lock
from llava_av.media.info import MediaError
from llava_av.processes.variables import DATA_CACHE_MB, DATA_CACHE_VARIABLE, count_variable
from llava_av.storage import file_sha256
from llava_av.storage.store_errors import local_files

__all__ = ["NEVER", "BlobCache", "cache_bytes"]

NEVER = 2**31 - 1
"""Step of a use that is not expected."""

_MB, _MOST_MB = 10**6, 10**9
# A scan of the folder frees more than one blob needs, so that not every download needs one.
_FREED_SHARE = 0.1


def cache_bytes(folder: Path) -> int:
    """Return the size in bytes of the cache in a folder, which `DATA_CACHE_VARIABLE` sets.

    By default, it is `DATA_CACHE_MB`, but at most half of the space available to it.

    Raises:
        UserError: The variable is not a whole number from 1 to 10⁹.
    """
    if megabytes := count_variable(os.environ, DATA_CACHE_VARIABLE, least=1, most=_MOST_MB):
        return megabytes * _MB
    space = shutil.disk_usage(folder).free + sum(size for _, size, _, _ in _entries(folder))
    return min(DATA_CACHE_MB * _MB, space // 2)


class BlobCache:
    """Blobs of a store on the local disk, for one process; several threads may use it.

    Args:
        folder: Folder that the processes of the node share.
        max_bytes: Size in bytes above which blobs that no process reads are deleted; None for `cache_bytes`.
    """

    def __init__(self, folder: Path, *, max_bytes: int | None = None) -> None:
        """Open the cache, and delete what killed processes left."""
        self._folder = folder
        self._numbers = itertools.count()
        self._own = folder / "claims" / uuid.uuid4().hex
        with local_files(folder / "blobs"):
            for name in ("blobs", "locks", "claims"):
                (folder / name).mkdir(parents=True, exist_ok=True)
            with file_lock(folder / "lock"):
                _delete_orphans(folder / "claims")
                self._own.mkdir()
                self._alive = _lock(self._own / ".lock")
                (folder / "usage").unlink(missing_ok=True)
        self.max_bytes = cache_bytes(folder) if max_bytes is None else max_bytes
        """Size of the cache; blobs that are being read may exceed it."""
        self.now = 0
        """Current step; a blob whose next use is an earlier one is evicted first."""

    def claim(self, file: CommitFile) -> Path:
        """Return a verified copy of a file, which exists until `release`; download it if it is not cached.

        Raises:
            MediaError: The blob is lost or damaged in the store.
            StoreError: The object store or the local disk cannot be used.
        """
        row = file.row
        link = self._own / f"{next(self._numbers)}-{row.sha256}"
        if self._linked(row, link):
            return link
        with local_files(link), file_lock(self._folder / "locks" / row.sha256[:3]):
            # Another process may have downloaded it while this one waited.
            if not self._linked(row, link):
                self._download(file, link)
        return link

    def release(self, claimed: Path, next_use: int) -> None:
        """Release a copy; blobs with the latest next use are evicted first.

        Args:
            claimed: Result of `claim`.
            next_use: Step that needs the blob again; `NEVER` if none is known.
        """
        os.utime(claimed, (next_use, next_use))
        claimed.unlink()

    def close(self) -> None:
        """Release all copies."""
        shutil.rmtree(self._own, ignore_errors=True)
        self._alive.close()

    def _linked(self, row: FileRow, link: Path) -> bool:
        """Link to the cached blob if it is there and intact; delete it if it is damaged."""
        blob = self._folder / "blobs" / row.sha256
        try:
            os.link(blob, link)
        except FileNotFoundError:
            return False
        if link.stat().st_size == row.bytes and file_sha256(link) == row.sha256:
            return True
        blob.unlink(missing_ok=True)
        link.unlink()
        return False

    def _download(self, file: CommitFile, link: Path) -> None:
        row = file.row
        self._make_room(row.bytes)
        part = self._own / f"{link.name}.part"
        try:
            file.commit.download(file, part)
            (part / row.path).rename(link)
        except CommitError as error:
            raise MediaError(row.path, str(error).removeprefix(f"{row.path} ")) from None
        finally:
            shutil.rmtree(part, ignore_errors=True)
        os.link(link, self._folder / "blobs" / row.sha256)

    def _make_room(self, size: int) -> None:
        """Count a blob that is downloaded, and evict others for it."""
        with file_lock(self._folder / "lock"):
            file = self._folder / "usage"
            with contextlib.suppress(OSError, ValueError):
                used = int(file.read_text()) + size
                if used <= self.max_bytes:
                    file.write_text(str(used))
                    return
            file.write_text(str(_evict(self._folder, size, self.max_bytes, self.now) + size))


def _evict(folder: Path, size: int, most: int, now: int) -> int:
    """Delete blobs until there is room for more than `size` bytes; return the size of the remaining ones."""
    found = sorted(_entries(folder), key=lambda one: one[0] if one[0] >= now else math.inf, reverse=True)
    used = sum(held for _, held, _, _ in found)
    if used + size <= most:
        return used
    for _, held, links, path in found:
        if used + size <= (1 - _FREED_SHARE) * most:
            break
        if links == 1:
            path.unlink(missing_ok=True)
            used -= held
    return used


def _entries(folder: Path) -> Iterator[tuple[float, int, int, Path]]:
    """Yield the next use, the size, the number of links and the path of each blob."""
    with contextlib.suppress(FileNotFoundError), os.scandir(folder / "blobs") as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(entry.path)
                yield status.st_mtime, status.st_size, status.st_nlink, Path(entry.path)


def _delete_orphans(claims: Path) -> None:
    for own in claims.iterdir():
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            _lock(own / ".lock", fcntl.LOCK_EX | fcntl.LOCK_NB).close()
            shutil.rmtree(own, ignore_errors=True)


def _lock(path: Path, how: int = fcntl.LOCK_EX) -> IO[bytes]:
    file = path.open("ab")
    try:
        fcntl.flock(file, how)
    except BaseException:
        file.close()
        raise
    return file
