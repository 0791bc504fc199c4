"""Differences between the contents of two commits, or of a commit and a folder."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from llava_av.datasets.contents import Contents
from llava_av.datasets.schema import Sample

__all__ = ["Changes", "ContentChanges", "Counts", "compare_contents", "count_contents"]


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


def compare_contents(before: Contents, after: Contents) -> ContentChanges:
    """Compare two contents."""
    return ContentChanges(
        samples=_changes(_lines(before), _lines(after)),
        files=_changes(_digests(before), _digests(after)),
        before=count_contents(before),
        after=count_contents(after),
    )


def count_contents(contents: Contents) -> Counts:
    """Count samples and files."""
    samples = [sample for own in contents.samples.values() for sample in own]
    return Counts(
        samples=len(samples),
        splits={split: len(own) for split, own in contents.samples.items()},
        kinds=dict(sorted(Counter(sample.kind for sample in samples).items())),
        files=len(contents.files),
        bytes=sum(entry.bytes for entry in contents.files.values()),
        hours=_hours(contents),
    )


def _changes(before: Mapping[str, object], after: Mapping[str, object]) -> Changes:
    return Changes(
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        changed=tuple(name for name in sorted(before.keys() & after.keys()) if before[name] != after[name]),
    )


def _lines(contents: Contents) -> dict[str, tuple[str, Sample]]:
    return {sample.id: (split, sample) for split, own in contents.samples.items() for sample in own}


def _digests(contents: Contents) -> dict[str, str]:
    return {path: entry.sha256 for path, entry in contents.files.items()}


def _hours(contents: Contents) -> float | None:
    infos = [contents.info(path) for path in contents.files]
    known = [info.duration_s for info in infos if info is not None]
    return round(math.fsum(known) / 3600, 6) if len(known) == len(infos) else None
