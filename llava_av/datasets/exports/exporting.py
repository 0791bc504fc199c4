"""Export of a commit to a folder of shards.

Shards are written to a folder beside the target, whose name follows from the commit and the options, one by
one and each whole. The target then appears by one rename. An export that was killed continues with the next
shard when it is started again. Only the media of one shard are on the disk in addition to the shards.
"""

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llava_av.datasets.commits import Commit
from llava_av.datasets.contents import Contents, Selection, read_contents
from llava_av.datasets.exports.parquet_shards import parquet_overhead, write_parquet
from llava_av.datasets.exports.shards import Shard, plan_shards
from llava_av.datasets.exports.tar_shards import tar_overhead, write_tar
from llava_av.datasets.manifest import CommitError
from llava_av.datasets.media_blobs import download_files, find_places
from llava_av.datasets.reading import ContentReader
from llava_av.files import PART, file_lock, is_new_folder, whole_file, write_json
from llava_av.processes.progress import ProgressCallback
from llava_av.storage import ObjectStore
from llava_av.storage.store_errors import local_files

__all__ = ["INDEX", "ExportFormat", "Exported", "export"]

ExportFormat = Literal["webdataset", "parquet"]
"""Format of the shards."""
INDEX = "export.json"
"""File that names the commit and the shards."""
_MEDIA, _LOCK = ".media", ".lock"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Numbers of samples and shards of an export."""

    samples: int
    shards: int
    reused: int
    """Shards that an earlier export, which was killed, has written."""


@dataclass(frozen=True, kw_only=True)
class _Format:
    suffix: str
    overhead: Callable[[int], int]
    write: Callable[[Path, Shard, Path], None]


_FORMATS = {
    "webdataset": _Format(suffix=".tar", overhead=tar_overhead, write=write_tar),
    "parquet": _Format(suffix=".parquet", overhead=parquet_overhead, write=write_parquet),
}


def export(
    store: ObjectStore,
    commit: Commit,
    folder: Path,
    form: ExportFormat,
    *,
    shard_bytes: int,
    selection: Selection | None = None,
    progress: ProgressCallback | None = None,
) -> Exported:
    """Write the samples and media of a commit, or of a part of it, as shards.

    Args:
        store: Store of the commit.
        commit: The commit.
        folder: Folder to create.
        form: Format of the shards.
        shard_bytes: Maximum size of a shard, unless one sample is larger.
        selection: Part of the commit; None: all of it.
        progress: Called with the number of written shards and of all.

    Raises:
        CommitError: The folder exists, another process exports to it, or content is lost or damaged.
        UserError: The selection names something that does not exist.
        StoreError: The object store or the local disk cannot be used.
    """
    part = Selection() if selection is None else selection
    _require_new(folder)
    contents = read_contents(store, commit, part)
    shards = plan_shards(contents, shard_bytes, _FORMATS[form].overhead)
    key = hashlib.sha256(repr((commit.id, form, shard_bytes, part)).encode()).hexdigest()[:16]
    staging = folder.absolute().with_name(f".{folder.absolute().name}.{key}.partial")
    with local_files(folder), _exclusive(staging):
        reused = _write_shards(
            store, commit.reader(store), contents, shards, _FORMATS[form], staging, progress
        )
        write_json(staging / INDEX, _index(commit, form, shards, staging))
        (staging / _LOCK).unlink()
        staging.replace(folder)
    count = sum(len(shard.samples) for shard in shards)
    return Exported(samples=count, shards=len(shards), reused=reused)


def _require_new(folder: Path) -> None:
    if not is_new_folder(folder):
        raise CommitError(f"{folder} is not a new folder: name one that does not exist")


@contextlib.contextmanager
def _exclusive(staging: Path) -> Iterator[None]:
    """Create a folder and hold its lock, which the kernel releases if the process is killed."""
    staging.mkdir(parents=True, exist_ok=True)
    refusal = CommitError(f"another process exports to {staging}: wait until it has ended")
    with file_lock(staging / _LOCK, refusal=refusal):
        yield


def _write_shards(
    store: ObjectStore,
    reader: ContentReader,
    contents: Contents,
    shards: Sequence[Shard],
    form: _Format,
    staging: Path,
    progress: ProgressCallback | None,
) -> int:
    """Write the shards that do not exist yet; return the number of those that exist."""
    reused = 0
    media = staging / _MEDIA
    # An export that was killed leaves the shard that it was writing.
    for left in staging.glob(f"*{PART}"):
        left.unlink()
    for done, shard in enumerate(shards, start=1):
        target = staging / f"{shard.name}{form.suffix}"
        if target.exists():
            reused += 1
        else:
            shutil.rmtree(media, ignore_errors=True)
            rows = [contents.files[path] for path in shard.paths]
            download_files(store, rows, find_places(reader, rows), media)
            with whole_file(target) as part:
                form.write(part, shard, media)
        if progress is not None:
            progress(done, len(shards))
    shutil.rmtree(media, ignore_errors=True)
    return reused


def _index(commit: Commit, form: str, shards: Sequence[Shard], staging: Path) -> dict[str, object]:
    names = [f"{shard.name}{_FORMATS[form].suffix}" for shard in shards]
    return {
        "dataset": commit.name,
        "commit": commit.id,
        "format": form,
        "shards": [
            {"file": name, "samples": len(shard.samples), "bytes": (staging / name).stat().st_size}
            for name, shard in zip(names, shards, strict=True)
        ],
    }
