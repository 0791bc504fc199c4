"""Media files that a conversion extracts from Parquet files and tars to a new folder.

A file gets the path that its source gives, as long as the path stays in the folder and no other content has
it. Otherwise the digest of the content becomes part of the name. Equal content with equal names is one file.
"""

import contextlib
import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from llava_av.datasets.manifest import safe_path
from llava_av.datasets.sources.rows import DatasetError
from llava_av.storage import file_sha256
from llava_av.storage.store_errors import local_files

__all__ = ["ExtractedMedia", "HeldFile"]

_PIECE_BYTES = 1 << 20
_MAX_NAME_BYTES, _MAX_SUFFIX = 200, 10
_RESERVED = (".json", ".jsonl", ".partial")


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, kw_only=True)
class HeldFile:
    """Content that has no path yet."""

    local: Path
    sha256: str


class ExtractedMedia:
    """Media files in a folder that only this object writes, and counts of what a conversion leaves out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parts = folder / ".parts"
        self._parts.mkdir()
        self._held = 0
        self._referenced: dict[str, str] = {}
        self.files = 0
        """Number of files written."""
        self.ignored: Counter[str] = Counter()
        """Number of ignored members by their endings."""

    def close(self) -> None:
        """Remove the folder of files without a path."""
        shutil.rmtree(self._parts)

    def hold(self, content: _Readable) -> HeldFile:
        """Write content that gets its path later, by `place`."""
        self._held += 1
        local = self._parts / str(self._held)
        digest = hashlib.sha256()
        with local_files(local), local.open("wb") as file:
            while piece := content.read(_PIECE_BYTES):
                digest.update(piece)
                file.write(piece)
        return HeldFile(local=local, sha256=digest.hexdigest())

    def place(self, held: HeldFile, wanted: str) -> str:
        """Give content a path, `wanted` if possible, and return the path."""
        for path in _candidates(wanted, held.sha256):
            target = self._folder / path
            if target.is_file():
                if _has_content(target, held):
                    held.local.unlink()
                    return path
                continue
            # A file may have the name of a folder, or a folder that of a file.
            with contextlib.suppress(FileExistsError, NotADirectoryError, IsADirectoryError):
                target.parent.mkdir(parents=True, exist_ok=True)
                held.local.rename(target)
                self.files += 1
                return path
        raise DatasetError(f"no path is free for the media file {wanted!r}: rename it in the source")

    def refer(self, root: Path, path: str, label: str) -> str:
        """Link a file that a row names into the folder, and return its path; absent files are left out.

        Args:
            root: Folder that the path is relative to.
            path: Path in the row.
            label: Name of the row for errors.

        Raises:
            DatasetError: The path leaves `root`.
        """
        if path in self._referenced:
            return self._referenced[path]
        try:
            local = (root / safe_path(path)).resolve()
        except (OSError, RuntimeError, ValueError):
            local = Path("/")
        if not local.is_relative_to(root.resolve()):
            raise DatasetError(
                f"{label}: {path!r} does not stay inside {root}: copy the file there and name it relative to "
                "that folder"
            )
        if not local.is_file():
            return path
        self._held += 1
        held = HeldFile(local=self._parts / str(self._held), sha256=file_sha256(local))
        try:
            os.link(local, held.local)
        except OSError:
            shutil.copyfile(local, held.local)
        self._referenced[path] = self.place(held, path)
        return self._referenced[path]


def _candidates(wanted: str, sha256: str) -> Iterator[str]:
    """Yield paths for a file, the best first."""
    suffix = PurePosixPath(wanted).suffix
    usual = suffix[1:].isalnum() and suffix.isascii() and len(suffix) < _MAX_SUFFIX
    suffix = suffix if usual and suffix.lower() not in _RESERVED else ""
    path = _allowed(wanted) or _allowed(wanted.replace("\\", "/").rpartition("/")[2])
    if path is not None:
        yield path
        plain = PurePosixPath(path)
        if own := _allowed(str(plain.with_name(f"{plain.stem}-{sha256[:16]}{plain.suffix}"))):
            yield own
    yield f"media/{sha256}{suffix}"
    yield f"{sha256}{suffix}"


def _allowed(path: str) -> str | None:
    """Return a path if it can be that of a media file in a dataset's folder."""
    try:
        plain = PurePosixPath(safe_path(path))
        names = [part.encode() for part in plain.parts]
    except ValueError:
        return None
    if not path.isprintable() or "\\" in path or plain.suffix.lower() in _RESERVED:
        return None
    if any(name.startswith(b".") or len(name) > _MAX_NAME_BYTES for name in names):
        return None
    return str(plain)


def _has_content(target: Path, held: HeldFile) -> bool:
    return target.stat().st_size == held.local.stat().st_size and file_sha256(target) == held.sha256
