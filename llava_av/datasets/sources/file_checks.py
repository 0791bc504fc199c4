"""Checks of the media files that the rows of a folder name, by their paths in the folder."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeAlias

from llava_av.datasets.file_cache import FileCache, KnownFile
from llava_av.datasets.media_checks import MediaChecks
from llava_av.media.info import MediaError, MediaInfo, UnreadableError, require_bytes

__all__ = ["CheckedFile", "FileCheck", "check_files", "folder_check", "outside"]

_WORKERS = 4
_SHORT_BYTES = 2**15
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


_Results: TypeAlias = "list[tuple[str, CheckedFile | str]]"


@dataclass(frozen=True, kw_only=True)
class FileCheck:
    """Check of media files by their paths."""

    result: Callable[[str], CheckedFile | str]
    """Returns the result for a path, or the reason why the file cannot be used."""
    is_short: Callable[[str], bool]
    """Returns whether the check of a path hardly releases the GIL, so that threads only slow it down."""


def folder_check(root: Path, checks: MediaChecks) -> FileCheck:
    """Return the check of a folder's media files."""
    home = _Home(root)
    return FileCheck(result=partial(_check_file, home, checks), is_short=home.has_short_file)


def check_files(names: Iterable[str], check: FileCheck) -> Iterator[tuple[str, CheckedFile | str]]:
    """Check files; yield each path with its result, in order.

    Long checks run in threads, which suffice because decoders release the GIL. Short ones run in this thread:
    two threads with small images take a third more CPU time, and are not faster.
    """

    def checked(own: list[str]) -> _Results:
        return [(name, check.result(name)) for name in own]

    remaining = iter(names)
    tasks: deque[Future[_Results]] = deque()
    pool = ThreadPoolExecutor(min(_WORKERS, os.cpu_count() or 1))
    try:
        while own := list(islice(remaining, _AT_ONCE)):
            while tasks and tasks[0].done():
                yield from tasks.popleft().result()
            if not tasks and all(map(check.is_short, own)):
                yield from checked(own)
                continue
            tasks.append(pool.submit(checked, own))
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

    def has_short_file(self, name: str) -> bool:
        """Check whether a path has a small file, or none."""
        try:
            return os.stat(self.root / name).st_size <= _SHORT_BYTES
        except (OSError, ValueError):
            return True


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
