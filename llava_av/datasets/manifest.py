"""Objects of a dataset commit, as canonical JSON that is named by its SHA-256.

blobs/<2 hex>/<sha256>                     media, packs of small media, ranges of files and of samples;
                                           shared by all datasets
datasets/<name>/manifests/<sha256>.json    `Manifest`; `FlatManifest` of commits of earlier versions
datasets/<name>/commits/<id>.json          `CommitRecord`
datasets/<name>/packs/<sha256>.json        places of the files of a range in packs (`placements`)
datasets/<name>/refs/main                  {"commit": <id>}

A manifest lists ranges, and a range lists files or samples (`ranges`). All of them are named by the digest of
their content, so the ID of a commit determines every byte, and equal ranges of two commits are one object.
"""

import hashlib
import json
import re
from pathlib import PurePosixPath
from typing import Literal, Protocol, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from llava_av.errors import UserError
from llava_av.frozen import FrozenModel
from llava_av.plurals import count_of

__all__ = [
    "CommitError",
    "CommitRecord",
    "FileEntry",
    "FileRange",
    "FlatManifest",
    "FlatSplit",
    "LeftOut",
    "Manifest",
    "QuarantinedEntry",
    "Range",
    "SampleRange",
    "SplitEntry",
    "blob_key",
    "canonical_json",
    "check_name",
    "commit_key",
    "list_path",
    "manifest_key",
    "parse_manifest",
    "ref_key",
    "safe_path",
    "sha256_hex",
]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_SHA256 = r"^[0-9a-f]{64}$"


class CommitError(UserError):
    """A dataset commit that cannot be written, found, read or verified; the text names it."""


class FileEntry(FrozenModel):
    """Content of one file."""

    sha256: str = Field(pattern=_SHA256)
    """Digest of the content, which names the blob."""
    bytes: int = Field(ge=0)
    """Size of the content."""


class LeftOut(Protocol):
    """A line or media file that was left out."""

    @property
    def file(self) -> str:
        """Return the name of the file, or of the line."""
        ...

    @property
    def reason(self) -> str:
        """Return the reason, on one line."""
        ...

    @property
    def samples(self) -> int:
        """Return the number of samples left out because of it."""
        ...


class QuarantinedEntry(FrozenModel):
    """A line or media file of the user's folder that was left out."""

    file: str
    """As in `llava_av.datasets.sources.folder.Quarantined`."""
    reason: str
    """Reason, on one line."""
    samples: int = 1
    """Number of samples left out because of it."""


class Range(FrozenModel):
    """Adjacent rows of a commit, sorted by their key, as one blob."""

    first: str
    """Key of the first row: the path of a file, or the ID of a sample."""
    rows: int = Field(ge=1)
    """Number of rows."""
    sha256: str = Field(pattern=_SHA256)
    """Digest of the content, which names the blob."""
    size: int = Field(ge=1)
    """Size of the blob."""


class FileRange(Range):
    """Range of media files."""

    bytes: int = Field(ge=0)
    """Sum of the sizes of the files."""


class SampleRange(Range):
    """Range of samples of one split."""

    kinds: dict[str, int]
    """Number of samples of each kind."""


class SplitEntry(FrozenModel):
    """One split."""

    samples: int = Field(ge=0)
    """Number of samples."""
    ranges: tuple[SampleRange, ...]
    """Ranges in the order of the IDs."""

    def __str__(self) -> str:
        """Return the number of samples, for messages."""
        return count_of(self.samples, "sample")

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        if sum(one.rows for one in self.ranges) != self.samples:
            raise ValueError(f"the ranges do not have {self.samples} samples")
        return self


class Manifest(FrozenModel):
    """Ranges of a commit."""

    version: Literal[2] = 2
    """Version of the format."""
    files: tuple[FileRange, ...]
    """Ranges of the media files in the order of the paths."""
    splits: dict[str, SplitEntry]
    """Splits by name."""
    quarantined: tuple[QuarantinedEntry, ...] = ()
    """Lines and files that were left out, sorted."""

    @property
    def file_count(self) -> int:
        """Return the number of media files and of lists of splits."""
        return sum(one.rows for one in self.files) + len(self.splits)

    @property
    def total_bytes(self) -> int:
        """Return the size of these files."""
        lists = (one.size for split in self.splits.values() for one in split.ranges)
        return sum(one.bytes for one in self.files) + sum(lists)


class FlatSplit(FrozenModel):
    """One split of a `FlatManifest`."""

    file: str
    """Path of its samples as canonical JSON Lines, sorted by ID; one of the manifest's files."""
    samples: int = Field(ge=0)
    """Number of lines in the file."""

    def __str__(self) -> str:
        """Return the number of samples, for messages."""
        return count_of(self.samples, "sample")


class FlatManifest(FrozenModel):
    """All files of a commit of an earlier version; paths are relative, use `/` and stay inside the folder."""

    files: dict[str, FileEntry]
    """Content of each path."""
    splits: dict[str, FlatSplit]
    """Splits by name."""
    quarantined: tuple[QuarantinedEntry, ...] = ()
    """Lines and files that were left out, sorted."""

    @property
    def file_count(self) -> int:
        """Return the number of media files and of lists of splits."""
        return len(self.files)

    @property
    def total_bytes(self) -> int:
        """Return the size of these files."""
        return sum(entry.bytes for entry in self.files.values())

    @property
    def media(self) -> dict[str, FileEntry]:
        """Return the files that are not the list of a split."""
        lists = {split.file for split in self.splits.values()}
        return {path: entry for path, entry in self.files.items() if path not in lists}

    def list_of(self, split: str) -> FileEntry:
        """Return the file with the samples of a split."""
        return self.files[self.splits[split].file]

    @field_validator("files")
    @classmethod
    def _paths_stay_inside(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for path in files:
            if safe_path(path) != path:
                raise ValueError(f"{path!r} is not a plain relative path")
        return files

    @model_validator(mode="after")
    def _splits_are_files(self) -> Self:
        for split in self.splits.values():
            if split.file not in self.files:
                raise ValueError(f"the split file {split.file} is not among the files")
        return self


class CommitRecord(FrozenModel):
    """A commit. It has no time, host or path, so equal content with equal history has an equal ID."""

    name: str
    """Name of the dataset."""
    manifest: str = Field(pattern=_SHA256)
    """SHA-256 of the manifest's canonical JSON."""
    parent: str | None = Field(pattern=_SHA256)
    """ID of the previous commit; None for the first."""


def safe_path(path: str) -> str:
    """Normalize a relative path.

    Raises:
        ValueError: The path is absolute, leaves its folder, or is reserved (it starts with `.checkout`, as
            files of earlier versions do).
    """
    # There may be millions of paths, and a regular expression takes twice the time.
    is_usual = path[:1] not in ("", "/", ".") and path[-1] != "/"
    if is_usual and not (".." in path or "//" in path or "/." in path or "\0" in path):
        return path
    plain = PurePosixPath(path)
    if plain.is_absolute() or ".." in plain.parts or not plain.parts or "\0" in path:
        raise ValueError(f"{path!r} does not stay inside its folder")
    if plain.parts[0].startswith(".checkout"):
        raise ValueError(f"{path!r} is a reserved name")
    return str(plain)


def parse_manifest(content: bytes) -> Manifest | FlatManifest:
    """Parse a manifest of any version.

    Raises:
        ValueError: It is not JSON, or not a manifest that this version can read.
    """
    data = json.loads(content)
    # The first version had no number.
    flat = isinstance(data, dict) and "version" not in data
    return FlatManifest.model_validate(data) if flat else Manifest.model_validate(data)


def canonical_json(value: BaseModel | dict[str, str]) -> bytes:
    """Serialize a value in a unique form: sorted keys, no spaces, UTF-8."""
    data = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of bytes as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def check_name(name: str) -> None:
    """Require a dataset name that can be part of object keys.

    Raises:
        CommitError: It does not consist of 1 to 100 lower-case letters, digits, dots, dashes and underscores.
    """
    if not _NAME.fullmatch(name):
        raise CommitError(
            f"dataset name {name!r} must be 1 to 100 lower-case letters, digits, '.', '-', '_', "
            "beginning with a letter or digit"
        )


def blob_key(sha256: str) -> str:
    """Return the key of a file's content."""
    return f"blobs/{sha256[:2]}/{sha256}"


def list_path(split: str) -> str:
    """Return the path, in copies of a commit, of the list of a split's samples."""
    return f"{split}.jsonl"


def manifest_key(name: str, digest: str) -> str:
    """Return the key of a manifest."""
    return f"datasets/{name}/manifests/{digest}.json"


def commit_key(name: str, commit: str) -> str:
    """Return the key of a commit record."""
    return f"datasets/{name}/commits/{commit}.json"


def ref_key(name: str) -> str:
    """Return the key of the ref that names a dataset's newest commit."""
    return f"datasets/{name}/refs/main"
