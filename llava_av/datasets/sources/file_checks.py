"""Checks of the media files that the rows of a folder name, by their paths in the folder."""

import os
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
from llava_av.storage import file_sha256

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

    def holds(self, path: str) -> bool:
        """Check whether a path in the folder leads to a file in it."""
        parent = os.path.dirname(path)
        if parent not in self._inside:
            self._inside[parent] = Path(parent).resolve().is_relative_to(self.root)
        return self._inside[parent] and (
            not os.path.islink(path) or Path(path).resolve().is_relative_to(self.root)
        )

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
        if not home.holds(path):
            return "links to a file outside the dataset's folder; copy the file into it"
        known, content = _identify(Path(path), checks.cache)
        if content is None:
            found = checks.check(Path(path), known)
        else:
            found = checks.check_own(path, known.sha256, content)
        return CheckedFile(found.info, known.sha256, known.stamp.size, found.decoded)
    except MediaError as error:
        return error.reason
    except (OSError, RuntimeError, ValueError) as error:
        # Paths that no file system accepts: a null byte, a loop of links.
        return f"is not a usable path: {error.args[-1] if error.args else error}"


def _identify(path: Path, cache: FileCache) -> tuple[KnownFile, bytes | None]:
    """Return the digest of a file, and its content if that was read now and is a small image."""
    content: bytes | None = None

    def digest(path: Path) -> str:
        nonlocal content
        with path.open("rb", buffering=0) as file:
            head = file.read(HEAD_BYTES)
            if content_format(head) is None or os.fstat(file.fileno()).st_size > _SHORT_BYTES:
                return file_sha256(path)
            content = head + file.read()
        return sha256_hex(content)

    try:
        require_bytes(path)
        known = cache.identify(path, digest)
    except OSError as error:
        raise UnreadableError(path, f"cannot be read: {error.strerror or error}") from None
    return known, content
