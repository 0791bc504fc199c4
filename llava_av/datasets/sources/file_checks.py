"""Checks of the media files that the rows of a folder name, by their paths in the folder."""

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from llava_av.datasets.file_cache import FileCache, KnownFile
from llava_av.datasets.manifest import sha256_hex
from llava_av.datasets.media_checks import MediaChecks
from llava_av.media.image_formats import HEAD_BYTES, content_format
from llava_av.media.info import MediaError, MediaInfo, UnreadableError, require_bytes
from llava_av.processes.ordered_calls import ordered_calls

__all__ = ["CheckedFile", "FileCheck", "check_files", "folder_check", "outside"]

_SHORT_BYTES = 2**15


class CheckedFile(NamedTuple):
    """A usable media file."""

    info: MediaInfo
    sha256: str
    bytes: int
    decoded: bool
    """False if only its headers were checked."""


@dataclass(frozen=True, kw_only=True)
class FileCheck:
    """Check of media files by their paths."""

    result: Callable[[str], CheckedFile | str]
    """Returns the result for a path, or the reason why the file cannot be used."""
    is_short: Callable[[str], bool]
    """Returns whether the check of a path is too short for a thread (`ordered_calls`)."""


def folder_check(root: Path, checks: MediaChecks) -> FileCheck:
    """Return the check of a folder's media files."""
    home = _Home(root)
    return FileCheck(result=partial(_check_file, home, checks), is_short=home.has_short_file)


def check_files(names: Iterable[str], check: FileCheck) -> Iterator[tuple[str, CheckedFile | str]]:
    """Check files; yield each path with its result, in order."""
    return ordered_calls(lambda name: (name, check.result(name)), names, is_short=check.is_short)


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
        self._text = str(self.root)
        self._inside: dict[str, bool] = {}

    def path(self, name: str) -> str:
        """Return the path of a file; joining texts is faster than joining paths."""
        return f"{self._text}/{name}"

    def holds(self, path: str, *, is_link: bool) -> bool:
        """Check whether a path in the folder leads to a file in it."""
        parent = os.path.dirname(path)
        if parent not in self._inside:
            self._inside[parent] = Path(parent).resolve().is_relative_to(self.root)
        return self._inside[parent] and (not is_link or Path(path).resolve().is_relative_to(self.root))

    def has_short_file(self, name: str) -> bool:
        """Check whether a path has a small file, or none."""
        try:
            return os.stat(self.path(name)).st_size <= _SHORT_BYTES
        except (OSError, ValueError):
            return True


def _check_file(home: _Home, checks: MediaChecks, name: str) -> CheckedFile | str:
    if reason := outside(name):
        return reason
    path = home.path(name)
    try:
        status = _status(path)
        if not home.holds(path, is_link=status is not None and stat.S_ISLNK(status.st_mode)):
            return "links to a file outside the dataset's folder; copy the file into it"
        if checks.decodes_all and status is not None and _is_short(status):
            content = _image_content(path)
            if content is not None:
                return _check_image(path, content, checks)
        known = _identify(Path(path), checks.cache)
        found = checks.check(Path(path), known)
        return CheckedFile(found.info, known.sha256, known.stamp.size, found.decoded)
    except MediaError as error:
        return error.reason
    except (OSError, RuntimeError, ValueError) as error:
        # Paths that no file system accepts: a null byte, a loop of links.
        return f"is not a usable path: {error.args[-1] if error.args else error}"


def _status(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:
        return None


def _is_short(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_size <= _SHORT_BYTES


def _image_content(path: str) -> bytes | None:
    """Return the content of an image; None for another file."""
    try:
        with open(path, "rb", buffering=0) as file:
            head = file.read(HEAD_BYTES)
            return None if content_format(head) is None else head + file.read()
    except OSError as error:
        raise UnreadableError(path, f"cannot be read: {error.strerror or error}") from None


def _check_image(path: str, content: bytes, checks: MediaChecks) -> CheckedFile:
    """Check a small image; reading it again takes less time than a look-up of its stamp in the cache."""
    sha256 = sha256_hex(content)
    found = checks.check_own(path, sha256, content)
    return CheckedFile(found.info, sha256, len(content), found.decoded)


def _identify(path: Path, cache: FileCache) -> KnownFile:
    try:
        require_bytes(path)
        return cache.identify(path)
    except OSError as error:
        raise UnreadableError(path, f"cannot be read: {error.strerror or error}") from None
