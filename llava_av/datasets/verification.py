"""Verification of stored content: every blob of some commits is read and compared with its digest.

A damaged or missing blob is named with the paths and samples that need it. `repair` replaces it by intact
content from a folder: a media file of any name, or a list of samples or files, which is built again from the
conversations.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from llava_av.datasets.commits import Commit, read_commit
from llava_av.datasets.manifest import CommitError, FlatManifest, blob_key, list_path, safe_path, sha256_hex
from llava_av.datasets.ranges import FileRow, cut_files, cut_samples, sample_line
from llava_av.datasets.reading import ContentReader
from llava_av.datasets.schema import Sample, SampleError, parse_stored
from llava_av.datasets.sources.rows import DatasetError, find_rows
from llava_av.processes.progress import ProgressCallback
from llava_av.storage import ObjectMissing, ObjectStore, StoreError, file_sha256, map_parallel

__all__ = ["DamagedBlob", "Verification", "all_commits", "describe_damage", "repair", "verify_commits"]


BlobKind = Literal["media", "samples", "files"]
"""Media file, list of samples, or list of files."""


class Blob(NamedTuple):
    """Blob of a commit."""

    path: str
    """Path of the media file or of the list of a split; name of a list of files."""
    sha256: str
    size: int
    kind: BlobKind


@dataclass(frozen=True, kw_only=True)
class DamagedBlob:
    """A blob that is missing or does not have the digest in its name."""

    sha256: str
    state: str
    """`missing`, `damaged`, or the reason why the store cannot read it."""
    paths: tuple[str, ...]
    """Paths that need it, as `NAME@COMMIT:PATH`."""
    samples: tuple[str, ...]
    """Samples whose media it is, as `NAME@COMMIT:ID`; none for a list of samples or files."""
    kind: BlobKind


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Result of reading all blobs of some commits."""

    commits: int
    blobs: int
    bytes: int
    damaged: tuple[DamagedBlob, ...]


def blob_batches(commit: Commit, reader: ContentReader) -> Iterator[list[Blob]]:
    """Yield all blobs of a commit, those of a range of files together; a list that is lost is left out.

    Args:
        commit: The commit.
        reader: Reader of the commit.
    """
    manifest = commit.manifest
    if isinstance(manifest, FlatManifest):
        lists = {split.file for split in manifest.splits.values()}
        yield [
            Blob(path, one.sha256, one.bytes, "samples" if path in lists else "media")
            for path, one in manifest.files.items()
        ]
        return
    for split, entry in manifest.splits.items():
        yield [Blob(list_path(split), one.sha256, one.size, "samples") for one in entry.ranges]
    yield [Blob(f"list of files from {one.first}", one.sha256, one.size, "files") for one in manifest.files]
    for one in manifest.files:
        with contextlib.suppress(CommitError, StoreError):
            yield [Blob(row.path, row.sha256, row.bytes, "media") for row in reader.files.load(one)]


def all_commits(store: ObjectStore) -> Iterator[Commit]:
    """Yield all commits of all datasets.

    Raises:
        CommitError: A commit or its manifest is lost or damaged.
    """
    for info in store.list("datasets/"):
        parts = info.key.split("/")
        if len(parts) == 4 and parts[2] == "commits":
            yield read_commit(store, parts[1], parts[3].removesuffix(".json"))


def verify_commits(
    store: ObjectStore, commits: Sequence[Commit], progress: ProgressCallback | None = None
) -> Verification:
    """Read every blob of some commits, each once, and compare its digest.

    Args:
        store: Store of the commits.
        commits: The commits.
        progress: Called with the number of verified blobs and of blobs to verify; the latter grows while
            lists of files are read.

    Raises:
        StoreError: The object store cannot be used.
    """
    check = _Check(store, progress)
    for commit in commits:
        for blobs in blob_batches(commit, commit.reader(store)):
            check.verify(blobs)
    return Verification(
        commits=len(commits),
        blobs=len(check.verified),
        bytes=check.bytes,
        damaged=tuple(describe_damage(store, commits, check.damaged)),
    )


class _Check:
    """Verification of blobs, each once."""

    def __init__(self, store: ObjectStore, progress: ProgressCallback | None) -> None:
        self._store, self._progress = store, progress
        self.verified: set[bytes] = set()
        self.bytes = 0
        self.damaged: dict[str, str] = {}
        """State by digest."""

    def verify(self, blobs: Iterable[Blob]) -> None:
        """Read blobs that were not read before."""
        sizes = {one.sha256: one.size for one in blobs if bytes.fromhex(one.sha256) not in self.verified}
        done, total = len(self.verified), len(self.verified) + len(sizes)
        progress = self._progress
        states = map_parallel(
            lambda digest: _state(self._store, digest),
            sizes,
            on_done=None if progress is None else lambda count: progress(done + count, total),
        )
        self.damaged |= {digest: state for digest, state in zip(sizes, states, strict=True) if state}
        self.verified.update(map(bytes.fromhex, sizes))
        self.bytes += sum(sizes.values())


def _state(store: ObjectStore, digest: str) -> str:
    """Return the damage of a blob; "" if it is intact."""
    key = blob_key(digest)
    try:
        return "" if store.sha256(key) == digest else "damaged"
    except ObjectMissing:
        return "missing"
    except StoreError as error:
        # A server that answers for other requests cannot read this object.
        store.exists(key)
        return str(error)


def describe_damage(
    store: ObjectStore, commits: Sequence[Commit], bad: Mapping[str, str]
) -> Iterator[DamagedBlob]:
    """Yield the blobs of `bad`, state by digest, with the paths and samples that need them."""
    paths: dict[str, list[str]] = {digest: [] for digest in sorted(bad)}
    samples: dict[str, list[str]] = {digest: [] for digest in paths}
    kinds: dict[str, BlobKind] = {}
    for commit in commits if bad else ():
        label, reader = f"{commit.name}@{commit.id[:16]}", commit.reader(store)
        blobs = (one for batch in blob_batches(commit, reader) for one in batch if one.sha256 in bad)
        media: dict[str, str] = {}
        for one in blobs:
            paths[one.sha256].append(f"{label}:{one.path}")
            kinds[one.sha256] = one.kind
            if one.kind == "media":
                media[one.path] = one.sha256
        for sample in _readable_samples(reader) if media else ():
            named = {safe_path(path) for path in sample.media} & media.keys()
            for digest in {media[path] for path in named}:
                samples[digest].append(f"{label}:{sample.id}")
    for digest in paths:
        yield DamagedBlob(
            sha256=digest,
            state=bad[digest],
            paths=tuple(paths[digest]),
            samples=tuple(samples[digest]),
            kind=kinds[digest],
        )


def _readable_samples(reader: ContentReader) -> Iterator[Sample]:
    """Yield the samples of a commit, as far as the lists of its splits can be read."""
    for split in reader.splits:
        yield from _readable(reader, split)


def _readable(reader: ContentReader, split: str) -> Iterator[Sample]:
    """Yield the samples of a split, as far as its ranges can be read."""
    try:
        listing = reader.samples(split)
    except (CommitError, StoreError):
        return
    for one in listing.ranges:
        with contextlib.suppress(CommitError, SampleError, StoreError):
            yield from [parse_stored(line.text, 1) for line in listing.load(one)]


def repair(
    store: ObjectStore, commits: Sequence[Commit], damaged: Iterable[DamagedBlob], folder: Path
) -> list[str]:
    """Replace damaged blobs by intact content from a folder; return the digests of repaired blobs.

    Args:
        store: Store of the commits.
        commits: Commits that need the blobs.
        damaged: The blobs.
        folder: Folder with intact content: that of the dataset, or a copy of any commit.

    Raises:
        CommitError: The folder does not exist.
        StoreError: The object store cannot be used.
    """
    if not folder.is_dir():
        raise CommitError(f"--repair {folder} is not a folder: give one with intact copies of the files")
    wanted = {blob.sha256 for blob in damaged}
    sizes = {
        one.size
        for commit in commits
        for batch in blob_batches(commit, commit.reader(store))
        for one in batch
        if one.sha256 in wanted
    }
    writes: dict[str, Callable[[], None]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.stat().st_size in sizes and (digest := file_sha256(path)) in wanted:
            writes[digest] = partial(store.put_file, blob_key(digest), path)
    for digest, content in _rebuilt_lists(store, commits, wanted - writes.keys(), folder):
        writes[digest] = partial(store.put_bytes, blob_key(digest), content)
    map_parallel(lambda write: write(), writes.values())
    return [digest for digest in writes if not _state(store, digest)]


def _rebuilt_lists(
    store: ObjectStore, commits: Sequence[Commit], wanted: set[str], folder: Path
) -> Iterator[tuple[str, bytes]]:
    """Yield the lists of samples and files that the conversations of a folder contain."""
    samples = _conversations(folder) if wanted else {}
    for commit in commits if samples else ():
        reader = commit.reader(store)
        members: dict[str, list[Sample]] = {}
        for split in commit.manifest.splits:
            members[split] = _members(reader, split, samples)
            lines = sorted(map(sample_line, members[split]))
            contents = [content for _, content in cut_samples(lines)]
            # A commit of an earlier version has the whole list as one blob.
            yield from _wanted([*contents, b"".join(contents)], wanted)
        yield from _wanted((content for _, content in cut_files(_rows(folder, members))), wanted)


def _wanted(contents: Iterable[bytes], wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    for content in contents:
        if (digest := sha256_hex(content)) in wanted:
            yield digest, content


def _rows(folder: Path, splits: Mapping[str, Sequence[Sample]]) -> list[FileRow]:
    """Return the files of a folder that samples name, sorted by path."""
    paths = {safe_path(path) for samples in splits.values() for sample in samples for path in sample.media}
    files = {path: folder / path for path in sorted(paths) if (folder / path).is_file()}
    return [FileRow(path, file_sha256(file), file.stat().st_size) for path, file in files.items()]


def _members(reader: ContentReader, split: str, samples: Mapping[str, Sample]) -> list[Sample]:
    """Return the samples of a folder that belong to a split: that state it, or are in no other list."""
    others = {sample.id for other in reader.splits if other != split for sample in _readable(reader, other)}
    return [
        sample.model_copy(update={"split": None})
        for sample in samples.values()
        if sample.split == split or (sample.split is None and sample.id not in others)
    ]


def _conversations(folder: Path) -> dict[str, Sample]:
    """Return the usable samples of a folder by ID; none if it has no conversations."""
    try:
        rows = find_rows(folder)
    except DatasetError:
        return {}
    samples: dict[str, Sample] = {}
    for number, row in rows.rows:
        try:
            sample = rows.parse(number, row)
        except SampleError:
            continue
        samples.setdefault(sample.id, sample)
    return samples
