"""Local copies of dataset commits.

`.checkout.json` in the folder names the commit, says whether the copy is whole, and keeps size and time of
each verified file, so that a second look need not read them all again.
"""

import contextlib
import fcntl
import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from llava_av.datasets.manifest import CommitError, FileEntry, Manifest, blob_key, safe_path
from llava_av.datasets.schema import Sample, parse_stored
from llava_av.storage import ObjectMissing, ObjectStore, file_sha256, map_parallel
from llava_av.storage.errors import local_files

__all__ = ["checkout_files", "read_split"]

_MARKER = ".checkout.json"
_PARTS = ".checkout.parts"

_Stamp = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class _Marker:
    commit: str
    whole: bool
    files: dict[str, _Stamp] = field(default_factory=dict)
    """Size in bytes and time of change in ns of each verified file."""


def checkout_files(
    store: ObjectStore,
    commit: str,
    manifest: Manifest,
    folder: Path,
    splits: tuple[str, ...],
    progress: Callable[[int, int], None] | None,
) -> Path:
    """See `llava_av.datasets.commits.checkout`."""
    for split in splits:
        if split not in manifest.splits:
            raise CommitError(f"commit {commit} has no split {split}; it has {', '.join(manifest.splits)}")
    if _is_whole(commit, manifest, folder, splits):
        return folder
    with local_files(folder), _exclusive(folder):
        # Another process may have done it while this one waited.
        if not _is_whole(commit, manifest, folder, splits):
            _fill(store, commit, manifest, folder, splits, progress)
    return folder


def _is_whole(commit: str, manifest: Manifest, folder: Path, splits: tuple[str, ...]) -> bool:
    marker = _read_marker(folder)
    if marker is None or not marker.whole or marker.commit != commit:
        return False
    if not all(_unchanged(marker, folder, path) for path in _own(manifest, splits)):
        return False
    wanted = _select(manifest, folder, splits)
    return all(_unchanged(marker, folder, path) for path in wanted)


def _own(manifest: Manifest, splits: tuple[str, ...]) -> set[str]:
    """The files that list the samples of some splits."""
    return {manifest.splits[split].file for split in splits}


def _select(manifest: Manifest, folder: Path, splits: tuple[str, ...]) -> dict[str, FileEntry]:
    """The files of some splits: their own, which are there already, and the media they name."""
    paths = _own(manifest, splits)
    for split in splits:
        for sample in read_split(folder, split):
            paths.update(safe_path(path) for path in sample.media)
    unknown = sorted(paths - manifest.files.keys())
    if unknown:
        raise CommitError(f"a sample names {unknown[0]}, which its commit does not hold")
    return {path: manifest.files[path] for path in sorted(paths)}


def _fill(
    store: ObjectStore,
    commit: str,
    manifest: Manifest,
    folder: Path,
    splits: tuple[str, ...],
    progress: Callable[[int, int], None] | None,
) -> None:
    old = _read_marker(folder)
    if old is None and folder.exists() and any(folder.iterdir()):
        raise CommitError(f"{folder} is not empty and no copy of a dataset: name another folder")
    known = old.files if old is not None and old.commit == commit else {}
    (folder / _PARTS).mkdir(parents=True, exist_ok=True)
    # From here on, a copy that is not finished says so.
    _write_marker(folder, _Marker(commit=commit, whole=False, files=known))
    kept = {path for path, stamp in known.items() if _stamp(folder / path) == stamp}
    own = _own(manifest, splits)
    _remove_others(folder, kept | own | manifest.files.keys())
    for path in sorted(own):
        _ensure(store, folder, path, manifest.files[path])
    wanted = _select(manifest, folder, splits)
    _remove_others(folder, kept | wanted.keys())
    missing = [path for path in wanted if path not in kept]
    map_parallel(
        lambda path: _ensure(store, folder, path, wanted[path]),
        missing,
        on_done=None if progress is None else lambda done: progress(done, len(missing)),
    )
    shutil.rmtree(folder / _PARTS)
    stamps = {path: _stamp(folder / path) for path in sorted(kept | wanted.keys())}
    files = {path: stamp for path, stamp in stamps.items() if stamp is not None}
    _write_marker(folder, _Marker(commit=commit, whole=True, files=files))


def _ensure(store: ObjectStore, folder: Path, path: str, entry: FileEntry) -> None:
    """Put one verified file in its place, unless it is there."""
    target = folder / path
    if target.is_file() and target.stat().st_size == entry.bytes and file_sha256(target) == entry.sha256:
        return
    part, key = folder / _PARTS / uuid.uuid4().hex, blob_key(entry.sha256)
    try:
        digest = store.get_file(key, part, sha256=entry.sha256)
    except ObjectMissing as error:
        raise CommitError(
            f"{path} is lost: {store.uri(key)} does not exist at {store.endpoint}; commit the dataset's "
            "folder again under the same name, which puts back what is missing"
        ) from error
    if digest != entry.sha256:
        part.unlink(missing_ok=True)
        raise CommitError(
            f"{path} is damaged: {store.uri(key)} does not have the digest in its name; delete that object "
            "and commit the dataset's folder again under the same name"
        )
    with local_files(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        part.replace(target)


def _remove_others(folder: Path, keep: set[str]) -> None:
    """Remove files that do not belong here, and folders that are then empty."""
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
    """One process at a time; the kernel frees the lock of a killed one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
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
        # Cut short by a full disk: nothing of it is believed, but the folder is known to be a copy.
        return _Marker(commit="", whole=False)


def _write_marker(folder: Path, marker: _Marker) -> None:
    part = folder / f"{_MARKER}.part"
    part.write_text(json.dumps(asdict(marker)))
    part.replace(folder / _MARKER)


def read_split(folder: Path, split: str) -> tuple[Sample, ...]:
    """Samples of one split of a checked out commit, sorted by id.

    Raises:
        CommitError: The folder has no such split.
        SampleError: A line is no sample.
    """
    path = folder / f"{split}.jsonl"
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError as error:
        raise CommitError(f"{folder} has no split {split}") from error
    return tuple(parse_stored(line, number) for number, line in enumerate(lines, start=1))
