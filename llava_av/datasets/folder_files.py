"""Regular files of a folder with their stamps, whose checks are remembered in blocks.

A block is a run of files of one directory in the order of their names; it ends after a name whose checksum is
divisible by a constant. The file cache keeps the results of a block's files under the digest of their names
and stamps, so unchanged files cost one look-up for each block instead of several for each file. The digest of
all blocks is the stamp of the folder.

Only files that were decoded successfully are remembered this way. Links are never followed; the files behind
them are checked one by one.
"""

import contextlib
import hashlib
import json
import os
import time
import zlib
from collections.abc import Iterator, Mapping
from itertools import repeat
from pathlib import Path
from typing import Any

from llava_av.datasets.file_cache import FileCache, Stamp
from llava_av.datasets.sources.file_checks import CheckedFile
from llava_av.media.info import MediaInfo

__all__ = ["FolderFiles"]

_MEAN_FILES = 64
_RECENT_NS = 10_000_000_000
"""Age from which a change is settled on every file system."""


class FolderFiles:
    """Files of a folder as they were when this object was made.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._began_ns = time.time_ns()
        self._blocks: list[_Block] | None = None
        self._stamp: str | None = None
        with contextlib.suppress(OSError):
            walk = _Walk(self._began_ns)
            self._blocks = list(walk.blocks(os.path.abspath(root), ""))
            digests = "".join(block.digest for block in self._blocks)
            self._stamp = hashlib.sha256(digests.encode()).hexdigest() if walk.is_settled else None

    @property
    def stamp(self) -> str | None:
        """Digest of the paths and stamps of all files.

        None if a change may leave it as it is: a file was changed a moment ago, or a link leads to content
        that the folder does not have.
        """
        return self._stamp

    def known(self, cache: FileCache) -> dict[str, CheckedFile]:
        """Return the results of files that did not change since `remember`, by their path in the folder."""
        found: dict[str, CheckedFile] = {}
        infos: dict[tuple[Any, ...], MediaInfo] = {}
        for block in self._blocks or ():
            # A text that this version cannot read is replaced by `remember`.
            with contextlib.suppress(TypeError, ValueError):
                names, digests, sizes, rows = json.loads(cache.checked_files(block.digest) or "")
                own = [_info(infos, tuple(row)) for row in rows]
                checked = map(CheckedFile, own, digests, sizes, repeat(True))
                found.update(zip(names, checked, strict=True))
                block.is_known = True
        return found

    def remember(self, cache: FileCache, checked: Mapping[str, CheckedFile]) -> None:
        """Remember the results of decoded files that did not change since this object was made.

        Args:
            cache: Cache that `known` was called with.
            checked: Results of usable files by their path in the folder.
        """
        for block in self._blocks or ():
            if block.is_known:
                continue
            own = [(name, stamp, checked[name]) for name, stamp in block.files() if name in checked]
            rows = [
                (name, found.sha256, found.bytes, list(vars(found.info).values()))
                for name, stamp, found in own
                if stamp.is_settled(self._began_ns) and _has_stamp(self.root / name, stamp)
            ]
            # Pending files are looked up each time, because their results change.
            if all(found.decoded for _, _, found in own):
                cache.remember_files(block.digest, json.dumps(list(zip(*rows, strict=True)) or [[]] * 4))


_FIELDS = tuple(MediaInfo.__dataclass_fields__)


def _info(known: dict[tuple[Any, ...], MediaInfo], fields: tuple[Any, ...]) -> MediaInfo:
    """Return the properties with some values; equal ones are one object."""
    if (found := known.get(fields)) is None:
        found = known[fields] = MediaInfo(**dict(zip(_FIELDS, fields, strict=True)))
    return found


class _Block:
    """Adjacent files of a directory.

    Args:
        home: Absolute path of the directory.
        folder: Its path in the dataset's folder, with a slash at its end; empty for the folder itself.
        text: Name and stamp of each file, each with a null byte at its end.
    """

    def __init__(self, home: str, folder: str, text: bytes) -> None:
        self._folder, self._text = folder, text
        self.digest = hashlib.sha256(os.fsencode(home) + b"\0" + text).hexdigest()
        self.is_known = False

    def files(self) -> Iterator[tuple[str, Stamp]]:
        """Yield the path in the dataset's folder and the stamp of each file."""
        parts = self._text.split(b"\0")
        for name, stamp in zip(parts[:-1:2], parts[1::2], strict=True):
            yield f"{self._folder}{os.fsdecode(name)}", Stamp(*map(int, stamp.split()))


class _Walk:
    """Walk through all files below a folder, in an order that does not change."""

    def __init__(self, began_ns: int) -> None:
        self._began_ns = began_ns
        self.is_settled = True
        """False if a file was changed a moment ago, or is a link."""

    def blocks(self, home: str, folder: str) -> Iterator[_Block]:
        """Yield the blocks of a directory and of those below it.

        Raises:
            OSError: A directory or file cannot be accessed.
        """
        with os.scandir(os.fsencode(home)) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        parts: list[bytes] = []
        for entry in entries:
            name = entry.name
            if entry.is_symlink():
                self.is_settled = False
            elif entry.is_dir(follow_symlinks=False):
                continue
            else:
                parts.append(b"%s\0%s\0" % (name, self._stamp(entry)))
            if zlib.crc32(name) % _MEAN_FILES == 0:
                yield _Block(home, folder, b"".join(parts))
                parts = []
        yield _Block(home, folder, b"".join(parts))
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from self.blocks(os.fsdecode(entry.path), f"{folder}{os.fsdecode(entry.name)}/")

    def _stamp(self, entry: "os.DirEntry[bytes]") -> bytes:
        status = entry.stat(follow_symlinks=False)
        modified_ns, changed_ns = status.st_mtime_ns, status.st_ctime_ns
        stamp = status.st_size, modified_ns, changed_ns, status.st_ino, status.st_dev
        if self._began_ns - max(modified_ns, changed_ns) < _RECENT_NS:
            self.is_settled = self.is_settled and Stamp(*stamp).is_settled(self._began_ns)
        return b"%d %d %d %d %d" % stamp


def _has_stamp(path: Path, stamp: Stamp) -> bool:
    with contextlib.suppress(OSError):
        return Stamp.of(path) == stamp
    return False
