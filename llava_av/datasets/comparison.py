"""Differences between the contents of two commits, or of a commit and a folder.

Only ranges that differ are loaded, except for the length of all media.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from llava_av.datasets.commits import Commit
from llava_av.datasets.contents import Contents
from llava_av.datasets.media_facts import RangeFacts, facts_of_ranges
from llava_av.datasets.reading import ContentReader
from llava_av.datasets.schema import Sample, parse_stored
from llava_av.media.info import MediaInfo
from llava_av.storage import ObjectStore

__all__ = [
    "Changes",
    "ComparedContent",
    "ContentChanges",
    "Counts",
    "compare_contents",
    "compared_commit",
    "count_contents",
    "no_changes",
]


@dataclass(frozen=True, kw_only=True)
class ComparedContent:
    """Content of a commit or a folder, and the properties of its media."""

    content: ContentReader
    facts: RangeFacts
    """Properties of media files, as far as they are known."""


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Names that were added, removed or changed, each sorted."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]

    def __bool__(self) -> bool:
        """Return whether there is any change."""
        return bool(self.added or self.removed or self.changed)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Numbers of samples and files, their size and their length."""

    samples: int
    splits: Mapping[str, int]
    """Samples of each split."""
    kinds: Mapping[str, int]
    """Samples of each kind of question."""
    files: int
    bytes: int
    hours: float | None
    """Length of all videos and audio files; None if that of a file is unknown."""


@dataclass(frozen=True, kw_only=True)
class ContentChanges:
    """Differences of samples by ID and of media files by path, and the counts before and after."""

    samples: Changes
    """A sample is changed if its line or its split is another one."""
    files: Changes
    before: Counts
    after: Counts

    def __bool__(self) -> bool:
        """Return whether there is any change."""
        return bool(self.samples or self.files)


def compared_commit(store: ObjectStore, commit: Commit) -> ComparedContent:
    """Return a commit for a comparison."""
    return ComparedContent(content=commit.reader(store), facts=facts_of_ranges(store, commit))


def compare_contents(before: ComparedContent, after: ComparedContent) -> ContentChanges:
    """Compare two contents.

    Raises:
        CommitError: A list of samples or files is lost or damaged.
        StoreError: The object store cannot be used.
    """
    return ContentChanges(
        samples=_changes(_samples(before, after), _samples(after, before)),
        files=_changes(_digests(before, after), _digests(after, before)),
        before=_counts(before),
        after=_counts(after),
    )


def no_changes(content: ComparedContent) -> ContentChanges:
    """Return the comparison of a content with an equal one; errors as for `compare_contents`."""
    nothing, counts = Changes(added=(), removed=(), changed=()), _counts(content)
    return ContentChanges(samples=nothing, files=nothing, before=counts, after=counts)


def _samples(own: ComparedContent, other: ComparedContent) -> dict[str, tuple[str, Sample]]:
    """Return split and sample by ID, of all ranges that the other content does not have."""
    found = {}
    for split in own.content.splits:
        known = other.content.samples(split).digests if split in other.content.splits else frozenset()
        for number, line in enumerate(own.content.samples(split).except_for(known), start=1):
            found[line.id] = split, parse_stored(line.text, number)
    return found


def _digests(own: ComparedContent, other: ComparedContent) -> dict[str, str]:
    """Return the digests of files by path, of all ranges that the other content does not have."""
    rows = own.content.files.except_for(other.content.files.digests)
    return {row.path: row.sha256 for row in rows}


def _counts(own: ComparedContent) -> Counts:
    content = own.content
    ranges = {split: content.samples(split).ranges for split in content.splits}
    samples = {split: sum(one.rows for one in found) for split, found in ranges.items()}
    kinds: Counter[str] = Counter()
    for one in (one for found in ranges.values() for one in found):
        kinds.update(one.kinds)
    return Counts(
        samples=sum(samples.values()),
        splits=samples,
        kinds=dict(sorted(kinds.items())),
        files=sum(one.rows for one in content.files.ranges),
        bytes=sum(one.bytes for one in content.files.ranges),
        hours=_hours(_infos(own)),
    )


def _infos(own: ComparedContent) -> Iterator[MediaInfo | None]:
    files = own.content.files
    for one in files.ranges:
        facts = own.facts(one)
        yield from (facts.get(row.sha256) for row in files.load(one))


def count_contents(contents: Contents) -> Counts:
    """Count samples and files."""
    samples = [sample for own in contents.samples.values() for sample in own]
    return Counts(
        samples=len(samples),
        splits={split: len(own) for split, own in contents.samples.items()},
        kinds=dict(sorted(Counter(sample.kind for sample in samples).items())),
        files=len(contents.files),
        bytes=sum(entry.bytes for entry in contents.files.values()),
        hours=_hours(map(contents.info, contents.files)),
    )


def _changes(before: Mapping[str, object], after: Mapping[str, object]) -> Changes:
    return Changes(
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        changed=tuple(name for name in sorted(before.keys() & after.keys()) if before[name] != after[name]),
    )


def _hours(infos: Iterable[MediaInfo | None]) -> float | None:
    seconds = [None if info is None else info.duration_s for info in infos]
    known = [one for one in seconds if one is not None]
    return round(math.fsum(known) / 3600, 6) if len(known) == len(seconds) else None
