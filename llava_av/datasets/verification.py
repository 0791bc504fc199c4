"""Verification of stored content: every blob of some commits is read and compared with its digest.

A damaged or missing blob is named with the paths and samples that need it. Files in packs are compared one by
one, and each copy of a file that is in several packs counts as a blob.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Literal, NamedTuple

from llava_av.datasets.commits import Commit, read_commit
from llava_av.datasets.manifest import CommitError, FlatManifest, blob_key, list_path, safe_path
from llava_av.datasets.media_blobs import PackSpan, read_span, spans_of
from llava_av.datasets.placements import Place
from llava_av.datasets.ranges import FileRow
from llava_av.datasets.reading import ContentReader
from llava_av.datasets.schema import Sample, SampleError, parse_stored
from llava_av.processes.progress import ProgressCallback
from llava_av.storage import ObjectMissing, ObjectStore, StoreError, map_parallel

__all__ = [
    "Blob",
    "BlobCheck",
    "DamagedBlob",
    "Verification",
    "all_commits",
    "blob_batches",
    "describe_damage",
    "readable_samples",
    "verify_commits",
]


BlobKind = Literal["media", "samples", "files"]
"""Media file, list of samples, or list of files."""


class Blob(NamedTuple):
    """Blob of a commit."""

    path: str
    """Path of the media file or of the list of a split; name of a list of files."""
    sha256: str
    size: int
    kind: BlobKind
    place: Place | None = None
    """Place in a pack; None for a blob of its own."""

    @property
    def copy(self) -> bytes:
        """Return an ID of this copy of the content; a pack may hold another copy."""
        digest = bytes.fromhex(self.sha256)
        return digest if self.place is None else digest + bytes.fromhex(self.place.pack)


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
            rows, places = reader.files.load(one), reader.places(one)
            yield [Blob(row.path, row.sha256, row.bytes, "media", places.get(row.sha256)) for row in rows]


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
    check = BlobCheck(store, progress)
    for commit in commits:
        for blobs in blob_batches(commit, commit.reader(store)):
            check.verify(blobs)
    return Verification(
        commits=len(commits),
        blobs=len(check.verified),
        bytes=check.bytes,
        damaged=tuple(describe_damage(store, commits, check.damaged)),
    )


class BlobCheck:
    """Verification of blobs, each once."""

    def __init__(self, store: ObjectStore, progress: ProgressCallback | None) -> None:
        self._store, self._progress = store, progress
        self.verified: set[bytes] = set()
        self.bytes = 0
        self.damaged: dict[str, str] = {}
        """State by digest."""

    def verify(self, blobs: Iterable[Blob]) -> None:
        """Read blobs that were not read before."""
        new = {one.copy: one for one in blobs if one.copy not in self.verified}
        done, total = len(self.verified), len(self.verified) + len(new)
        progress = self._progress
        checks = list(_checks(self._store, list(new.values())))
        counts = list(accumulate(count for count, _ in checks))
        states = map_parallel(
            lambda check: check[1](),
            checks,
            on_done=None if progress is None else lambda count: progress(done + counts[count - 1], total),
        )
        self.damaged |= {digest: state for found in states for digest, state in found.items()}
        self.verified.update(new)
        self.bytes += sum(one.size for one in new.values())


def _checks(store: ObjectStore, blobs: Sequence[Blob]) -> Iterator[tuple[int, Callable[[], dict[str, str]]]]:
    """Yield functions that read blobs and return the state of damaged ones, after the number of blobs."""
    rows = [FileRow(one.path, one.sha256, one.size) for one in blobs if one.place is not None]
    places = {one.sha256: one.place for one in blobs if one.place is not None}
    for span in spans_of(rows, places):
        yield len(span.rows), partial(_states, store, span)
    for one in blobs:
        if one.place is None:
            yield 1, partial(_damage, store, one.sha256)


def _damage(store: ObjectStore, digest: str) -> dict[str, str]:
    state = _state(store, digest)
    return {digest: state} if state else {}


def _states(store: ObjectStore, span: PackSpan) -> dict[str, str]:
    """Return the state of each damaged file of a span."""
    key = blob_key(span.pack)
    try:
        return {row.sha256: "damaged" for row, content in read_span(store, span) if content is None}
    except ObjectMissing:
        state = "missing"
    except StoreError as error:
        # A server that answers for other requests cannot read this object.
        store.exists(key)
        state = str(error)
    return {row.sha256: state for row, _ in span.rows}


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
        label, reader = commit.title, commit.reader(store)
        blobs = (one for batch in blob_batches(commit, reader) for one in batch if one.sha256 in bad)
        media: dict[str, str] = {}
        for one in blobs:
            paths[one.sha256].append(f"{label}:{one.path}")
            kinds[one.sha256] = one.kind
            if one.kind == "media":
                media[one.path] = one.sha256
        for sample in _all_samples(reader) if media else ():
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


def _all_samples(reader: ContentReader) -> Iterator[Sample]:
    """Yield the samples of a commit, as far as the lists of its splits can be read."""
    for split in reader.splits:
        yield from readable_samples(reader, split)


def readable_samples(reader: ContentReader, split: str) -> Iterator[Sample]:
    """Yield the samples of a split, as far as its ranges can be read."""
    try:
        listing = reader.samples(split)
    except (CommitError, StoreError):
        return
    for one in listing.ranges:
        with contextlib.suppress(CommitError, SampleError, StoreError):
            yield from [parse_stored(line.text, 1) for line in listing.load(one)]
