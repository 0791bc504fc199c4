"""Regular files of a folder with their stamps, whose checks are remembered in blocks.

A block is a run of files of one directory in the order of their names; it ends after a name whose checksum is
divisible by a constant. The file cache keeps the results of a block's files under the digest of its place and
of their names and stamps, so unchanged files cost one look-up for each block instead of several for each
file. The digest of all blocks is the stamp of the folder.

Only files that were decoded successfully are remembered this way. Links are never followed; the files behind
them are checked one by one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import time
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from llava_av.datasets.file_cache import FileCache, Stamp
from llava_av.datasets.spilled import SpilledBytes

if TYPE_CHECKING:
    from llava_av.datasets.sources.checked_files import CheckedFiles

__all__ = ["FolderFiles"]

_MEAN_FILES, _READ_AT_ONCE = 64, 128
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
        self._text = SpilledBytes()
        self._blocks: list[_Block] | None = None
        self._stamp: str | None = None
        with contextlib.suppress(OSError):
            walk = _Walk(self._began_ns, self._text)
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

    def add_known(self, cache: FileCache, checked: CheckedFiles) -> None:
        """Add the results of files that did not change since `remember` and that `checked` wants."""
        blocks = self._blocks or []
        for start in range(0, len(blocks), _READ_AT_ONCE):
            own = blocks[start : start + _READ_AT_ONCE]
            texts = cache.checked_files([block.digest for block in own])
            # Texts that this version cannot read are replaced by `remember`.
            with contextlib.suppress(TypeError, ValueError):
                found = list(map(json.loads, texts.values()))
                names, infos, digests, sizes = (list(chain(*column)) for column in zip(*found, strict=True))
                checked.add_decoded(names, infos, digests, sizes)
                for block in own:
                    block.is_known = block.digest in texts

    def remember(self, cache: FileCache, checked: CheckedFiles) -> None:
        """Remember the results of decoded files that did not change since this object was made.

        Args:
            cache: Cache that `add_known` was called with.
            checked: Results of usable files by their path in the folder.
        """
        # It loads numpy, which an unchanged folder does not need.
        from llava_av.datasets.sources.checked_files import info_text

        root = str(self.root)
        for block in self._blocks or ():
            if block.is_known:
                continue
            names, stamps = block.files(self._text)
            own = [
                (name, stamp, found)
                for name, stamp, found in zip(names, stamps, checked.find(names), strict=True)
                if found is not None
            ]
            rows = [
                (name, info_text(found.info), found.sha256, found.bytes)
                for name, stamp, found in own
                if stamp.is_settled(self._began_ns) and _has_stamp(f"{root}/{name}", stamp)
            ]
            # Pending files are looked up each time, because their results change.
            if all(found.decoded for _, _, found in own):
                cache.remember_files(block.digest, json.dumps(list(zip(*rows, strict=True)) or [[]] * 4))


class _Block:
    """Adjacent files of a directory.

    Args:
        home: Absolute path of the directory.
        folder: Its path in the dataset's folder, with a slash at its end; empty for the folder itself.
        content: Name and stamp of each file, each with a null byte at its end.
        text: Text of all blocks, to which the content is appended.
    """

    __slots__ = ("_end", "_folder", "_start", "digest", "is_known")

    def __init__(self, home: str, folder: str, content: bytes, text: SpilledBytes) -> None:
        self._folder, self._start = folder, text.size
        text.append(content)
        self._end = text.size
        # The remembered paths start at the dataset's folder, which may be in that of another dataset.
        place = b"%s\0%s\0" % (os.fsencode(home), os.fsencode(folder))
        self.digest = hashlib.sha256(place + content).hexdigest()
        self.is_known = False

    def files(self, text: SpilledBytes) -> tuple[list[str], list[Stamp]]:
        """Return the path in the dataset's folder and the stamp of each file."""
        parts = text.read(self._start, self._end).split(b"\0")
        names = [f"{self._folder}{os.fsdecode(name)}" for name in parts[:-1:2]]
        return names, [Stamp(*map(int, stamp.split())) for stamp in parts[1::2]]


class _Walk:
    """Walk through all files below a folder, in an order that does not change."""

    def __init__(self, began_ns: int, text: SpilledBytes) -> None:
        self._began_ns, self._text = began_ns, text
        self.is_settled = True
        """False if a file was changed a moment ago, or is a link."""

    def blocks(self, home: str, folder: str) -> Iterator[_Block]:
        """Yield the blocks of a directory and of those below it.

        Raises:
            OSError: A directory or file cannot be accessed.
        """
        recent_ns = self._began_ns - _RECENT_NS
        start, parts, folders = os.fsencode(home) + b"/", list[bytes](), list[bytes]()
        for name in sorted(os.listdir(start)):
            status = os.lstat(start + name)
            if stat.S_ISDIR(status.st_mode):
                folders.append(name)
                continue
            if stat.S_ISLNK(status.st_mode):
                self.is_settled = False
            else:
                modified_ns, changed_ns = status.st_mtime_ns, status.st_ctime_ns
                stamp = status.st_size, modified_ns, changed_ns, status.st_ino, status.st_dev
                if modified_ns > recent_ns or changed_ns > recent_ns:
                    self.is_settled = self.is_settled and Stamp(*stamp).is_settled(self._began_ns)
                parts.append(b"%s\0%d %d %d %d %d\0" % (name, *stamp))
            if zlib.crc32(name) % _MEAN_FILES == 0:
                yield _Block(home, folder, b"".join(parts), self._text)
                parts = []
        yield _Block(home, folder, b"".join(parts), self._text)
        for name in folders:
            yield from self.blocks(os.fsdecode(start + name), f"{folder}{os.fsdecode(name)}/")


def _has_stamp(path: str, stamp: Stamp) -> bool:
    with contextlib.suppress(OSError):
        return Stamp.of(path) == stamp
    return False
