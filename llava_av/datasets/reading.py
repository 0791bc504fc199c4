"""Readers of the content of a commit, of any version, or of a folder that is to be committed.

A reader gives files and samples as listings, whose rows are loaded range by range. Two contents are compared
by the digests of their ranges first; only ranges that differ are loaded.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import TypeVar

from llava_av.datasets.manifest import (
    CommitError,
    FileRange,
    FlatManifest,
    Manifest,
    QuarantinedEntry,
    SampleRange,
    SplitEntry,
    blob_key,
)
from llava_av.datasets.placements import Place, readable_places
from llava_av.datasets.ranges import (
    FileRow,
    Listing,
    SampleLine,
    files_in_memory,
    parse_files,
    parse_samples,
    samples_in_memory,
    stored_line,
)
from llava_av.storage import ObjectMissing, ObjectStore

__all__ = ["ContentReader", "content_in_memory", "content_of", "open_content"]

_Parsed = TypeVar("_Parsed")
Files = Listing[FileRange, FileRow]
Samples = Listing[SampleRange, SampleLine]


@dataclass(frozen=True, kw_only=True)
class ContentReader:
    """Files and samples of a commit or of a folder."""

    files: Files
    """Media files by path."""
    splits: Mapping[str, Callable[[], Samples]]
    """Samples by ID of each split, sorted by name; a split of an earlier version is read at once."""
    quarantined: tuple[QuarantinedEntry, ...]
    """Lines and files that were left out, sorted."""
    has_blobs: bool
    """True if each range is a blob of the store."""
    places: Callable[[FileRange], Mapping[str, Place]]
    """Return the places of the files of a range that are in packs, by their digest."""

    def samples(self, split: str) -> Samples:
        """Return the samples of a split.

        Raises:
            CommitError: The list of a split of an earlier version is lost or damaged.
        """
        return self.splits[split]()

    def manifest(self) -> Manifest:
        """Return the manifest of a commit with this content."""
        listings = {split: self.samples(split) for split in self.splits}
        return Manifest(
            files=self.files.ranges,
            splits={
                split: SplitEntry(samples=sum(one.rows for one in listing.ranges), ranges=listing.ranges)
                for split, listing in listings.items()
            },
            quarantined=self.quarantined,
        )


def content_in_memory(
    splits: Mapping[str, Iterable[SampleLine]],
    files: Iterable[FileRow],
    quarantined: Iterable[QuarantinedEntry],
) -> ContentReader:
    """Return the reader of content that is not committed, in any order."""
    listings = {split: samples_in_memory(sorted(lines, key=itemgetter(0))) for split, lines in splits.items()}
    return content_of(listings, files, quarantined)


def content_of(
    splits: Mapping[str, Samples], files: Iterable[FileRow], quarantined: Iterable[QuarantinedEntry]
) -> ContentReader:
    """Return the reader of samples, of files in any order and of omissions, none of which are committed."""
    return ContentReader(
        files=files_in_memory(sorted(files, key=itemgetter(0))),
        splits={split: partial(_itself, splits[split]) for split in sorted(splits)},
        quarantined=tuple(sorted(quarantined, key=lambda entry: (entry.file, entry.reason))),
        has_blobs=False,
        places=_nowhere,
    )


def open_content(
    store: ObjectStore, manifest: Manifest | FlatManifest, name: str, commit: str
) -> ContentReader:
    """Return the reader of a commit; rows are read from the store when they are needed.

    Args:
        store: Store of the commit.
        manifest: Manifest of the commit.
        name: Name of its dataset, for messages.
        commit: Its ID, for messages.
    """
    blobs = _Blobs(store, name, commit)
    if isinstance(manifest, FlatManifest):
        rows = [FileRow(path, one.sha256, one.bytes) for path, one in sorted(manifest.media.items())]
        return ContentReader(
            files=files_in_memory(rows),
            splits={split: partial(blobs.flat, manifest, split) for split in sorted(manifest.splits)},
            quarantined=manifest.quarantined,
            has_blobs=False,
            places=_nowhere,
        )
    splits = {
        split: Listing(
            ranges=entry.ranges,
            load=partial(blobs.samples, split),
            content=partial(blobs.sample_content, split),
        )
        for split, entry in sorted(manifest.splits.items())
    }
    return ContentReader(
        files=Listing(ranges=manifest.files, load=blobs.files, content=blobs.file_content),
        splits={split: partial(_itself, listing) for split, listing in splits.items()},
        quarantined=manifest.quarantined,
        has_blobs=True,
        places=partial(readable_places, store, name),
    )


def _nowhere(one: FileRange) -> Mapping[str, Place]:
    return {}


def _itself(listing: Samples) -> Samples:
    return listing


class _Blobs:
    """Blobs of a commit that list its files and samples; errors name the commit."""

    def __init__(self, store: ObjectStore, name: str, commit: str) -> None:
        self._store, self._name, self._commit = store, name, commit

    def flat(self, manifest: FlatManifest, split: str) -> Samples:
        """Return all samples of a split of an earlier version."""
        content = self._read(manifest.list_of(split).sha256, f"samples of split {split}")
        return self._parsed(
            f"samples of split {split}",
            lambda: samples_in_memory(list(map(stored_line, content.splitlines()))),
        )

    def samples(self, split: str, one: SampleRange) -> list[SampleLine]:
        """Return the samples of a range of a split."""
        content = self.sample_content(split, one)
        return self._parsed(f"samples of split {split}", lambda: parse_samples(one, content))

    def sample_content(self, split: str, one: SampleRange) -> bytes:
        """Return the content of a range of a split."""
        return self._read(one.sha256, f"samples of split {split}")

    def files(self, one: FileRange) -> list[FileRow]:
        """Return the files of a range."""
        content = self.file_content(one)
        return self._parsed("paths of files", lambda: parse_files(one, content))

    def file_content(self, one: FileRange) -> bytes:
        """Return the content of a range of files."""
        return self._read(one.sha256, "paths of files")

    def _read(self, digest: str, what: str) -> bytes:
        key = blob_key(digest)
        try:
            content = self._store.get_content(key, digest)
        except ObjectMissing:
            state = "lost"
        else:
            if content is not None:
                return content
            state = "damaged"
        raise CommitError(
            f"the {what} of {self._name}@{self._commit} are {state} ({self._store.uri(key)}): run `llava-av "
            f"data verify {self._name}@{self._commit[:16]} --repair FOLDER` with an intact copy"
        )

    def _parsed(self, what: str, parse: Callable[[], _Parsed]) -> _Parsed:
        try:
            return parse()
        except (ValueError, KeyError, TypeError) as error:
            raise CommitError(
                f"the {what} of {self._name}@{self._commit} are not what this version of llava-av writes "
                f"({error}): update llava-av"
            ) from None
