"""Rebase of a commit onto another writer's: the changes of both since the commit that both started from.

Samples are compared by ID and media files by path. What only one writer added, changed or removed is taken
from that writer. If both changed the same sample or file differently, or if the result would have one media
file in two splits, nothing is committed.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

from llava_av.datasets.manifest import CommitError, QuarantinedEntry, safe_path
from llava_av.datasets.ranges import FileRow, sample_line
from llava_av.datasets.reading import ContentReader, content_in_memory
from llava_av.datasets.schema import Sample, parse_stored

__all__ = ["rebase"]

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")
_ADVICE = "make the folder equal to one of them and commit again, or add --force to replace the other content"


@dataclass(frozen=True, kw_only=True)
class _Content:
    """Samples, media and quarantined files by what identifies them."""

    splits: tuple[str, ...] = ()
    samples: Mapping[str, tuple[str, Sample]]
    """Split and sample by ID."""
    media: Mapping[str, FileRow]
    quarantined: Mapping[tuple[str, str], QuarantinedEntry]


def rebase(base: ContentReader | None, theirs: ContentReader, own: ContentReader) -> ContentReader:
    """Return the content of `theirs` with the changes from `base` to `own`.

    Args:
        base: Commit that both writers started from; None for a dataset without commits.
        theirs: Commit of the other writer.
        own: Content to commit.

    Raises:
        CommitError: Both changed the same sample or file, or a media file would be in two splits.
        StoreError: The object store cannot be used.
    """
    was, their, mine = map(_read, (base, theirs, own))
    samples = _merged(was.samples, their.samples, mine.samples, lambda key: f"sample {key}")
    changed = _merged(was.media, their.media, mine.media, lambda key: f"the file {key}")
    # A file that one writer removed may be used by a sample that the other added.
    known = {**mine.media, **their.media, **changed}
    media = {path: known[path] for _, sample in samples.values() for path in map(safe_path, sample.media)}
    _require_separate(samples, media, (their, mine))
    left_out = _merged(was.quarantined, their.quarantined, mine.quarantined, lambda key: f"the file {key[0]}")
    splits: dict[str, list[Sample]] = {split: [] for split in (*their.splits, *mine.splits)}
    for split, sample in samples.values():
        splits[split].append(sample)
    lines = {split: list(map(sample_line, own)) for split, own in splits.items()}
    return content_in_memory(lines, media.values(), left_out.values())


def _read(content: ContentReader | None) -> _Content:
    if content is None:
        return _Content(samples={}, media={}, quarantined={})
    return _Content(
        splits=tuple(content.splits),
        samples={
            line.id: (split, parse_stored(line.text, number))
            for split in content.splits
            for number, line in enumerate(content.samples(split), start=1)
        },
        media={row.path: row for row in content.files},
        quarantined={(entry.file, entry.reason): entry for entry in content.quarantined},
    )


def _merged(
    base: Mapping[_Key, _Value],
    theirs: Mapping[_Key, _Value],
    own: Mapping[_Key, _Value],
    name: Callable[[_Key], str],
) -> dict[_Key, _Value]:
    """Merge the changes of two mappings since `base`; an absent key is a value of its own."""
    merged: dict[_Key, _Value] = {}
    for key in {**base, **theirs, **own}:
        was, their, mine = base.get(key), theirs.get(key), own.get(key)
        if mine not in (was, their) and their != was:
            raise CommitError(f"{name(key)} was changed by this commit and by another one: {_ADVICE}")
        value = their if mine == was else mine
        if value is not None:
            merged[key] = value
    return merged


def _require_separate(
    samples: Mapping[str, tuple[str, Sample]], media: Mapping[str, FileRow], parents: tuple[_Content, ...]
) -> None:
    """Require that no media file gets into two splits that shares none in the commits of both writers."""
    before = {digest for parent in parents for digest in _shared(parent.samples, parent.media)}
    shared = _shared(samples, media)
    new = sorted(path for digest, path in shared.items() if digest not in before)
    if new:
        raise CommitError(
            f"{new[0]} would be in two splits, because both writers assigned samples with it: {_ADVICE}"
        )


def _shared(samples: Mapping[str, tuple[str, Sample]], media: Mapping[str, FileRow]) -> dict[str, str]:
    """Return the digest and a path of each media file that samples of two splits use."""
    used: dict[str, dict[str, str]] = {}
    for split, sample in samples.values():
        for path in map(safe_path, sample.media):
            used.setdefault(split, {})[media[path].sha256] = path
    return {
        digest: path
        for one, other in combinations(used.values(), 2)
        for digest, path in one.items()
        if digest in other
    }
