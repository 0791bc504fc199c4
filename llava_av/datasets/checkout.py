"""Verified local copies of dataset commits.

`.checkout.json` in the folder names the commit, states whether the copy is complete, and records size and
time of each verified file, so that a later checkout need not read all files again.
"""

import contextlib
import json
import shutil
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from llava_av.datasets.commits import Commit
from llava_av.datasets.contents import named_media
from llava_av.datasets.manifest import CommitError, list_path
from llava_av.datasets.media_blobs import download_files, find_places
from llava_av.datasets.ranges import FileRow
from llava_av.datasets.reading import ContentReader
from llava_av.datasets.schema import Sample, parse_stored
from llava_av.files import file_lock, write_whole
from llava_av.processes.progress import ProgressCallback
from llava_av.storage import ObjectStore, file_sha256, map_parallel
from llava_av.storage.store_errors import local_files

__all__ = ["checkout", "read_split"]

_MARKER = ".checkout.json"
_PARTS = ".checkout.parts"

_Stamp = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class _Marker:
    commit: str
    whole: bool
    files: dict[str, _Stamp] = field(default_factory=dict)
    """Size in bytes and modification time in ns of each verified file."""


def checkout(
    store: ObjectStore,
    commit: Commit,
    folder: Path,
    splits: Iterable[str] | None = None,
    *,
    progress: ProgressCallback | None = None,
) -> Path:
    """Make `folder` a verified local copy of a commit, or of some of its splits, and return it.

    Existing files are reused, files of another commit are removed. Several processes may check out into the
    same folder at the same time. A folder counts as complete only after all its files were verified.

    Args:
        store: Object store to read from.
        commit: Commit to copy.
        folder: Created if necessary; it must be empty or made by an earlier checkout.
        splits: Splits whose samples and media are wanted; all if None.
        progress: Called with the number of files copied and of files to copy.

    Raises:
        CommitError: A split is unknown, content does not have its digest, or the folder holds something else.
        StoreError: The object store or the local disk cannot be used.
    """
    wanted = tuple(commit.manifest.splits) if splits is None else tuple(splits)
    for split in wanted:
        if split not in commit.manifest.splits:
            raise CommitError(
                f"commit {commit.id} has no split {split}; it has {', '.join(commit.manifest.splits)}"
            )
    if _is_complete(commit, folder, wanted):
        return folder
    with local_files(folder), _exclusive(folder):
        # Another process may have finished the copy while this one waited.
        if not _is_complete(commit, folder, wanted):
            _fill(store, commit, folder, wanted, progress)
    return folder


def _is_complete(commit: Commit, folder: Path, splits: tuple[str, ...]) -> bool:
    marker = _read_marker(folder)
    if marker is None or not marker.whole or marker.commit != commit.id:
        return False
    if not all(_unchanged(marker, folder, list_path(split)) for split in splits):
        return False
    return all(_unchanged(marker, folder, path) for path in _media(folder, splits))


def _media(folder: Path, splits: tuple[str, ...]) -> set[str]:
    """Return the media that the lists of some splits, which exist already, name."""
    return named_media(sample for split in splits for sample in read_split(folder, split))


def _select(content: ContentReader, paths: set[str]) -> dict[str, FileRow]:
    """Return the files with some paths."""
    found = {row.path: row for row in content.files if row.path in paths}
    unknown = sorted(paths - found.keys())
    if unknown:
        raise CommitError(f"a sample names {unknown[0]}, which its commit does not contain; commit again")
    return found


def _fill(
    store: ObjectStore,
    commit: Commit,
    folder: Path,
    splits: tuple[str, ...],
    progress: ProgressCallback | None,
) -> None:
    old = _read_marker(folder)
    if old is None and folder.exists() and not all(map(_is_leftover, folder.iterdir())):
        raise CommitError(f"{folder} is not empty and not a copy of a dataset: name another folder")
    known = old.files if old is not None and old.commit == commit.id else {}
    shutil.rmtree(folder / _PARTS, ignore_errors=True)
    (folder / _PARTS).mkdir(parents=True)
    # From here on, the marker states that the copy is incomplete.
    _write_marker(folder, _Marker(commit=commit.id, whole=False, files=known))
    kept = {path for path, stamp in known.items() if _stamp(folder / path) == stamp}
    content = commit.reader(store)
    lists = {list_path(split) for split in splits}
    new_lists = [split for split in splits if list_path(split) not in kept]
    for split in new_lists:
        _write_list(content, folder, split)
    wanted = _select(content, _media(folder, splits))
    _remove_others(folder, kept | lists | wanted.keys())
    unknown = [row for path, row in wanted.items() if path not in kept]
    found = map_parallel(partial(_is_intact, folder), unknown)
    missing = [row for row, is_intact in zip(unknown, found, strict=True) if not is_intact]
    lists_done = len(new_lists)
    download_files(
        store,
        missing,
        find_places(content, missing),
        folder / _PARTS,
        on_file=partial(_publish, folder),
        progress=progress and (lambda done, total: progress(lists_done + done, lists_done + total)),
    )
    shutil.rmtree(folder / _PARTS)
    stamps = {path: _stamp(folder / path) for path in sorted(kept | lists | wanted.keys())}
    verified = {path: stamp for path, stamp in stamps.items() if stamp is not None}
    _write_marker(folder, _Marker(commit=commit.id, whole=True, files=verified))


def _is_leftover(path: Path) -> bool:
    """Check whether a path was left by a copy that ended before its first file."""
    return path.name == _PARTS or path.name.startswith(f".{_MARKER}.")


def _write_list(content: ContentReader, folder: Path, split: str) -> None:
    """Write the list of a split."""
    part = folder / _PARTS / uuid.uuid4().hex
    with part.open("wb") as file:
        file.writelines(b"%s\n" % line.text for line in content.samples(split))
    part.replace(folder / list_path(split))


def _is_intact(folder: Path, row: FileRow) -> bool:
    """Check whether a file exists with its content."""
    target = folder / row.path
    return target.is_file() and target.stat().st_size == row.bytes and file_sha256(target) == row.sha256


def _publish(folder: Path, row: FileRow) -> None:
    """Move a file that was downloaded to its path."""
    target = folder / row.path
    with local_files(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        (folder / _PARTS / row.path).replace(target)


def _remove_others(folder: Path, keep: set[str]) -> None:
    """Remove all other files, and folders that are then empty."""
    for path in sorted(folder.rglob("*"), reverse=True):
        name = path.relative_to(folder).as_posix()
        if name.startswith((_MARKER, _PARTS)):
            continue
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(OSError):
                path.rmdir()
        elif name not in keep:
            path.unlink()


@contextlib.contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, which the kernel releases if the process is killed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(folder.parent / f".{folder.name}.lock"):
        yield


def _stamp(path: Path) -> _Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _unchanged(marker: _Marker, folder: Path, path: str) -> bool:
    stamp = _stamp(folder / path)
    return stamp is not None and marker.files.get(path) == stamp


def _read_marker(folder: Path) -> _Marker | None:
    try:
        data = json.loads((folder / _MARKER).read_text())
        files = {path: (int(size), int(changed)) for path, (size, changed) in data["files"].items()}
        return _Marker(commit=data["commit"], whole=data["whole"] is True, files=files)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        # A full disk truncated the marker: no file counts as verified, but the folder is a copy.
        return _Marker(commit="", whole=False)


def _write_marker(folder: Path, marker: _Marker) -> None:
    write_whole(folder / _MARKER, json.dumps(asdict(marker)))


def read_split(folder: Path, split: str) -> tuple[Sample, ...]:
    """Read the samples of one split of a checked-out commit, sorted by ID.

    Raises:
        CommitError: The folder has no such split.
        SampleError: A line is not a sample.
    """
    path = folder / list_path(split)
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError as error:
        raise CommitError(f"{folder} has no split {split}") from error
    return tuple(parse_stored(line, number) for number, line in enumerate(lines, start=1))
