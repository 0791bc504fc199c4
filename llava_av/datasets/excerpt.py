"""Excerpt of a commit: a bounded number of its samples, with their media files.

Samples are chosen by a hash of their media. The choice is therefore spread evenly over the commit, samples
about the same media are chosen together, and samples that are added later change little of it. Samples are
read range by range, and only the ranges of files with chosen media are read, so memory depends on the number
of chosen samples and not on the size of the commit.
"""

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from llava_av.datasets.commits import Commit
from llava_av.datasets.contents import (
    Contents,
    Selection,
    matching_samples,
    read_media,
    require_found,
    require_split,
)
from llava_av.datasets.schema import Sample
from llava_av.storage import ObjectStore

__all__ = ["Excerpt", "excerpt_of", "read_excerpt"]


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """Some samples of a commit or folder."""

    contents: Contents
    matching: int
    """Number of samples that meet the conditions, including those that were not chosen."""


def read_excerpt(store: ObjectStore, commit: Commit, selection: Selection, limit: int) -> Excerpt:
    """Read an excerpt of a commit.

    Args:
        store: Store of the commit.
        commit: The commit.
        selection: Conditions on the samples.
        limit: Maximum number of samples.

    Raises:
        CommitError: A list of samples or files is lost or damaged.
        UserError: There is no such split, or no sample meets the conditions.
        StoreError: The object store cannot be used.
    """
    name, reader = commit.title, commit.reader(store)
    require_split(reader.splits, selection.split, name)
    chosen, matching = _choose(matching_samples(reader, selection), selection, limit, name)
    samples = _by_split(chosen, reader.splits, selection)
    files, facts = read_media(store, commit, reader, [sample for _, sample in chosen])
    return Excerpt(contents=Contents(samples=samples, files=files, facts=facts), matching=matching)


def excerpt_of(contents: Contents, selection: Selection, limit: int, name: str) -> Excerpt:
    """Return an excerpt of contents in memory; arguments and errors as for `read_excerpt`."""
    require_split(contents.samples, selection.split, name)
    pairs = (
        (split, sample)
        for split, own in contents.samples.items()
        for sample in own
        if selection.split in ("", split) and selection.includes(sample)
    )
    chosen, matching = _choose(pairs, selection, limit, name)
    samples = _by_split(chosen, contents.samples, selection)
    return Excerpt(
        contents=Contents(samples=samples, files=contents.files, facts=contents.facts), matching=matching
    )


def _by_split(
    chosen: Sequence[tuple[str, Sample]], splits: Iterable[str], selection: Selection
) -> dict[str, tuple[Sample, ...]]:
    """Return the chosen samples of each split of a selection."""
    return {
        split: tuple(sample for own, sample in chosen if own == split)
        for split in splits
        if selection.split in ("", split)
    }


def _choose(
    pairs: Iterable[tuple[str, Sample]], selection: Selection, limit: int, name: str
) -> tuple[list[tuple[str, Sample]], int]:
    """Return the chosen pairs of split and sample, sorted by ID, and the number of matching samples."""
    matching = 0
    named: set[str] = set()

    def counted() -> Iterator[tuple[str, Sample]]:
        nonlocal matching
        for split, sample in pairs:
            matching += 1
            if not named or sample.id in selection.samples:
                named.add(sample.id)
            yield split, sample

    chosen = heapq.nsmallest(limit, counted(), key=lambda pair: _position(pair[1]))
    require_found(named, selection, name)
    return sorted(chosen, key=lambda pair: pair[1].id), matching


def _position(sample: Sample) -> tuple[bytes, str]:
    return hashlib.sha256(repr(sample.media_key).encode()).digest(), sample.id
