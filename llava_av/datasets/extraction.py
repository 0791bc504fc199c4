"""Copies of commits that users work with: media, and a `conversations.jsonl` to edit and commit again.

A copy of a whole commit commits again to the same content. Each sample states its split, and `.llava-av.json`
lists the omissions of the commit, which a later commit of the folder lists again.

Content is downloaded to a folder beside the target and verified. A new target then appears whole, by one
rename. In an existing folder each file is replaced whole, and `conversations.jsonl` last, so it never names a
file that is not there. Other files of the folder stay as they are.
"""

import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict, ValidationError

from llava_av.datasets.commits import Commit
from llava_av.datasets.contents import Contents, Selection, read_contents, stating_split
from llava_av.datasets.manifest import CommitError, QuarantinedEntry
from llava_av.datasets.media_blobs import download_files, find_places
from llava_av.datasets.ranges import FileRow
from llava_av.datasets.schema import Sample, to_jsonl
from llava_av.datasets.sources.rows import CONVERSATIONS
from llava_av.files import is_new_folder, write_whole
from llava_av.frozen import FrozenModel
from llava_av.plurals import count_of
from llava_av.processes.progress import ProgressCallback
from llava_av.storage import ObjectStore, file_sha256, map_parallel
from llava_av.storage.store_errors import local_files

__all__ = ["ORIGIN", "Extracted", "extract", "left_out_before"]

ORIGIN = ".llava-av.json"
"""File of a copy that names its commit."""


class _Origin(FrozenModel):
    model_config = ConfigDict(extra="ignore")

    dataset: str
    commit: str
    left_out: tuple[QuarantinedEntry, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Extracted:
    """Numbers of samples and media files of a copy, and of files that had to be downloaded."""

    samples: int
    files: int
    downloaded: int


def extract(
    store: ObjectStore,
    commit: Commit,
    folder: Path,
    selection: Selection,
    *,
    force: bool = False,
    progress: ProgressCallback | None = None,
) -> Extracted:
    """Copy a commit, or a part of it, to a folder.

    Args:
        store: Store of the commit.
        commit: The commit.
        folder: Folder to create or to complete.
        selection: Part of the commit.
        force: True to replace files that have other content.
        progress: Called with the number of downloaded files and of files to download.

    Raises:
        CommitError: Files have other content, content is lost or damaged, or a path leaves the folder.
        UserError: The selection names something that does not exist.
        StoreError: The object store or the local disk cannot be used.
    """
    contents = read_contents(store, commit, selection)
    texts = {
        CONVERSATIONS: to_jsonl(_samples(contents)).encode(),
        ORIGIN: _origin(commit, selection),
    }
    with local_files(folder):
        missing = _missing(folder, contents.files, texts, force=force)
        with _staging(folder) as staging:
            rows = list(missing.values())
            places = find_places(commit.reader(store), rows)
            download_files(store, rows, places, staging, progress=progress)
            for name, content in texts.items():
                write_whole(staging / name, content)
            _publish(staging, folder, (*missing, ORIGIN, CONVERSATIONS))
    count = sum(map(len, contents.samples.values()))
    return Extracted(samples=count, files=len(contents.files), downloaded=len(missing))


def left_out_before(folder: Path) -> tuple[QuarantinedEntry, ...]:
    """Return the omissions of the commit that a folder is a copy of; nothing for any other folder."""
    try:
        return _Origin.model_validate_json((folder / ORIGIN).read_bytes()).left_out
    except FileNotFoundError:
        return ()
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.errors()[0]["msg"]
        raise CommitError(f"{folder / ORIGIN} cannot be used ({reason}): delete it") from None


def _samples(contents: Contents) -> list[Sample]:
    stated = [
        stating_split(sample, split) for split, samples in contents.samples.items() for sample in samples
    ]
    return sorted(stated, key=lambda sample: sample.id)


def _origin(commit: Commit, selection: Selection) -> bytes:
    left_out = commit.manifest.quarantined if selection.is_whole else ()
    origin = _Origin(dataset=commit.name, commit=commit.id, left_out=left_out)
    return f"{origin.model_dump_json(indent=1)}\n".encode()


def _missing(
    folder: Path, files: Mapping[str, FileRow], texts: Mapping[str, bytes], *, force: bool
) -> dict[str, FileRow]:
    """Return the files that the folder lacks, and refuse a folder with other content."""
    home = folder.resolve()
    reserved = sorted(files.keys() & texts.keys())
    if reserved:
        raise CommitError(f"the commit has a media file {reserved[0]}, a reserved name: it cannot be copied")
    for parent, path in {os.path.dirname(path): path for path in files}.items():
        if not (home / parent).resolve().is_relative_to(home):
            raise CommitError(f"{folder / path} leads outside of {folder} through a link: use another folder")
    digests = {path: entry.sha256 for path, entry in files.items()}
    digests[CONVERSATIONS] = hashlib.sha256(texts[CONVERSATIONS]).hexdigest()
    found = dict(zip(digests, map_parallel(lambda path: _digest(folder / path), digests), strict=True))
    conflicts = sorted(path for path, digest in digests.items() if found[path] not in ("", digest))
    if conflicts and not force:
        raise CommitError(
            f"{folder} has {count_of(len(conflicts), 'file')} with other content than the commit, the first "
            f"is {conflicts[0]}: use another folder, or replace them with --force"
        )
    return {path: entry for path, entry in files.items() if found[path] != entry.sha256}


def _digest(path: Path) -> str:
    """Return the digest of a file; "" if there is none, and a text that no digest has for anything else."""
    if path.is_file() and not path.is_symlink():
        return file_sha256(path)
    return "no file" if path.exists() or path.is_symlink() else ""


@contextlib.contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """Create a folder on the same file system as `folder`, and remove it at the end."""
    staging = folder.absolute().parent / f".{folder.absolute().name}.{uuid.uuid4().hex}.partial"
    staging.mkdir(parents=True)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _publish(staging: Path, folder: Path, paths: tuple[str, ...]) -> None:
    if is_new_folder(folder):
        staging.replace(folder)
        return
    for path in paths:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        (staging / path).replace(target)
