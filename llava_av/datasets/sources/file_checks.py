"""Checks of the media files that the rows of a folder name, by their paths in the folder."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from llava_av.datasets.file_cache import FileCache, KnownFile
from llava_av.datasets.media_checks import MediaChecks
from llava_av.media.info import MediaError, MediaInfo, UnreadableError, require_bytes

__all__ = ["CheckedFile", "FileCheck", "check_files", "folder_check", "outside"]

_WORKERS = 4
# A task of a pool costs as much as the check of a file that is known.
_AT_ONCE = 8
# A waiting task takes memory.
_MOST_TASKS = 64


class CheckedFile(NamedTuple):
    """A usable media file."""

    info: MediaInfo
    sha256: str
    bytes: int
    decoded: bool
    """False if only its headers were checked."""


FileCheck = Callable[[str], CheckedFile | str]
"""Function that returns the result for a media path, or the reason why it cannot be used."""


def folder_check(root: Path, checks: MediaChecks) -> FileCheck:
    """Return the function that checks a media file of a folder."""
    return partial(_check_file, _Home(root), checks)


def check_files(names: Sequence[str], check: FileCheck) -> Iterator[tuple[str, CheckedFile | str]]:
    """Check files; yield each path with its result, in order. Threads suffice: decoders release the GIL."""

    def checked(start: int) -> list[tuple[str, CheckedFile | str]]:
        return [(name, check(name)) for name in names[start : start + _AT_ONCE]]

    tasks: deque[Future[list[tuple[str, CheckedFile | str]]]] = deque()
    pool = ThreadPoolExecutor(min(_WORKERS, os.cpu_count() or 1))
    try:
        for start in range(0, len(names), _AT_ONCE):
            tasks.append(pool.submit(checked, start))
            if len(tasks) == _MOST_TASKS:
                yield from tasks.popleft().result()
        while tasks:
            yield from tasks.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def outside(name: str) -> str | None:
    """Return the reason if a media path does not stay inside its folder."""
    if ".." not in name and not name.startswith("/"):
        return None
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts:
        return "is not a path inside the dataset's folder; give it relative to the folder, without .."
    return None


class _Home:
    """Folder of a dataset; remembers which folders in it lead outside through links."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._inside: dict[str, bool] = {}

    def holds(self, path: Path) -> bool:
        """Check whether a path in the folder leads to a file in it."""
        parent = os.path.dirname(path)
        if parent not in self._inside:
            self._inside[parent] = path.parent.resolve().is_relative_to(self.root)
        return self._inside[parent] and (not os.path.islink(path) or path.resolve().is_relative_to(self.root))


def _check_file(home: _Home, checks: MediaChecks, name: str) -> CheckedFile | str:
    if reason := outside(name):
        return reason
    path = home.root / name
    try:
        if not home.holds(path):
            return "links to a file outside the dataset's folder; copy the file into it"
        known = _identify(path, checks.cache)
        found = checks.check(path, known)
        return CheckedFile(
            info=found.info, sha256=known.sha256, bytes=known.stamp.size, decoded=found.decoded
        )
    except MediaError as error:
        return error.reason
    except (OSError, RuntimeError, ValueError) as error:
        # Paths that no file system accepts: a null byte, a loop of links.
        return f"is not a usable path: {error.args[-1] if error.args else error}"


def _identify(path: Path, cache: FileCache) -> KnownFile:
    try:
        require_bytes(path)
        return cache.identify(path)
    except OSError as error:
        raise UnreadableError(path, f"cannot be read: {error.strerror or error}") from None
