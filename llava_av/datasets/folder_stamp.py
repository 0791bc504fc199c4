"""Folders whose content is known to be that of a commit, because no file in them has changed since.

The stamp of a folder covers the paths and stamps of all its files. As long as it is the same, neither the
conversations are parsed nor the media looked up.
"""

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from llava_av import __version__
from llava_av.datasets.file_cache import FileCache, Stamp
from llava_av.media.info import CHECK_VERSION

__all__ = ["KnownFolder", "folder_stamp"]


class KnownFolder:
    """A folder, and the commit that has its content as it is now.

    Args:
        cache: Cache of earlier commits.
        root: The folder.
        options: Everything else on which the content of its commit depends.
    """

    def __init__(self, cache: FileCache, root: Path, *options: object) -> None:
        self._cache, self._stamp = cache, folder_stamp(root)
        self._key = f"{root.resolve()} {options} {__version__} {CHECK_VERSION}"

    @property
    def commit(self) -> str | None:
        """ID of the commit; None if it is unknown."""
        return None if self._stamp is None else self._cache.committed(self._key, self._stamp)

    def remember(self, commit: str) -> None:
        """Remember the commit of the folder as it was when this object was made."""
        if self._stamp is not None:
            self._cache.remember_committed(self._key, self._stamp, commit)


def folder_stamp(root: Path) -> str | None:
    """Return the stamp of a folder.

    Returns:
        A digest of the paths and stamps of all files; None if a change may leave it as it is: a file was
        changed a moment ago, or a link leads to content that the folder does not have.
    """
    digest, began_ns = hashlib.sha256(), time.time_ns()
    try:
        for entry in _files(root):
            status = entry.stat(follow_symlinks=False)
            stamp = Stamp(
                status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev
            )
            if entry.is_symlink() or not stamp.is_settled(began_ns):
                return None
            digest.update(os.fsencode(f"{entry.path}\0{tuple(stamp)}\0"))
    except OSError:
        return None
    return digest.hexdigest()


def _files(folder: str | Path) -> Iterator["os.DirEntry[str]"]:
    """Yield all files and links below a folder, in an order that does not change."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(entry.path)
        else:
            yield entry
