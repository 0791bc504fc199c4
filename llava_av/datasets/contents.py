"""Samples and media files of a commit, read from the store without a local copy."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import chain

from llava_av.datasets.commits import Commit
from llava_av.datasets.manifest import FileRange, safe_path
from llava_av.datasets.media_facts import facts_of_ranges
from llava_av.datasets.ranges import FileRow
from llava_av.datasets.reading import ContentReader
from llava_av.datasets.schema import Sample, parse_stored
from llava_av.errors import UserError
from llava_av.media.info import MediaInfo
from llava_av.storage import ObjectStore, map_parallel

__all__ = [
    "Contents",
    "Selection",
    "matching_samples",
    "named_media",
    "read_contents",
    "read_media",
    "read_samples",
    "require_found",
    "require_split",
    "stating_split",
]

# Only these splits can be stated by a sample.
_STATED = ("train", "held_out")


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Samples and media files of a commit, of a part of it, or of a folder."""

    samples: Mapping[str, tuple[Sample, ...]]
    """Samples of each split, sorted by ID."""
    files: Mapping[str, FileRow]
    """Media files by path."""
    facts: Mapping[str, MediaInfo] = field(default_factory=dict)
    """Properties of media files by the digest of their content, as far as they are known."""

    def info(self, path: str) -> MediaInfo | None:
        """Return the properties of a media file; None if they are unknown."""
        return self.facts.get(self.files[path].sha256)

    def has_audio(self, path: str) -> bool | None:
        """Check whether a media file has audio; None if it is unknown."""
        info = self.info(path)
        return None if info is None else info.has_audio


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Part of a commit: samples that meet every condition that is given."""

    split: str = ""
    """Split of the samples; all if empty."""
    pattern: str = ""
    """Pattern of the shell (`*`, `?`, `[...]`) that a media path of the sample matches; any if empty."""
    samples: frozenset[str] = frozenset()
    """IDs of the samples; all if empty."""

    @property
    def is_whole(self) -> bool:
        """Check whether nothing is left out."""
        return self == Selection()

    def matches(self, path: str) -> bool:
        """Check whether a media path matches the pattern."""
        return not self.pattern or fnmatchcase(path, self.pattern)

    def includes(self, sample: Sample) -> bool:
        """Check whether a sample of the split meets the other conditions."""
        if self.samples and sample.id not in self.samples:
            return False
        return not self.pattern or any(self.matches(safe_path(path)) for path in sample.media)


def read_contents(store: ObjectStore, commit: Commit, selection: Selection) -> Contents:
    """Read the samples and files of a part of a commit; memory depends on the part, not on the commit.

    Args:
        store: Store of the commit.
        commit: The commit.
        selection: Part that is wanted.

    Raises:
        CommitError: A list of samples or files is lost or damaged.
        UserError: There is no such split, or no sample meets the conditions; names those that do not exist.
        StoreError: The object store cannot be used.
    """
    name, reader = commit.title, commit.reader(store)
    require_split(reader.splits, selection.split, name)
    samples: dict[str, list[Sample]] = {split: [] for split in _splits(reader, selection)}
    for split, sample in matching_samples(reader, selection):
        samples[split].append(sample)
    require_found({sample.id for own in samples.values() for sample in own}, selection, name)
    files, facts = read_media(store, commit, reader, chain.from_iterable(samples.values()))
    return Contents(samples={split: tuple(own) for split, own in samples.items()}, files=files, facts=facts)


def read_samples(reader: ContentReader, split: str) -> tuple[Sample, ...]:
    """Read the samples of one split of a commit; errors as for `read_contents`."""
    return tuple(sample for _, sample in matching_samples(reader, Selection(split=split)))


def matching_samples(reader: ContentReader, selection: Selection) -> Iterator[tuple[str, Sample]]:
    """Yield split and sample of the part of a commit; only ranges that may contain such samples are read."""
    for split in _splits(reader, selection):
        listing, first = reader.samples(split), 1
        likely = listing.ranges_with(selection.samples) if selection.samples else listing.ranges
        wanted = {one.sha256 for one in likely}
        for one in listing.ranges:
            for number, line in enumerate(listing.load(one) if one.sha256 in wanted else (), first):
                if not selection.samples or line.id in selection.samples:
                    sample = parse_stored(line.text, number)
                    if selection.includes(sample):
                        yield split, sample
            first += one.rows


def _splits(reader: ContentReader, selection: Selection) -> list[str]:
    return [split for split in reader.splits if selection.split in ("", split)]


def read_media(
    store: ObjectStore, commit: Commit, reader: ContentReader, samples: Iterable[Sample]
) -> tuple[dict[str, FileRow], dict[str, MediaInfo]]:
    """Return the media files of samples by path, and their known properties by digest.

    Only ranges that contain such files are read; errors as for `read_contents`.
    """
    facts_of, paths = facts_of_ranges(store, commit), named_media(samples)

    def read(one: FileRange) -> tuple[list[FileRow], dict[str, MediaInfo]]:
        found, known = [row for row in reader.files.load(one) if row.path in paths], facts_of(one)
        return found, {row.sha256: known[row.sha256] for row in found if row.sha256 in known}

    parts = map_parallel(read, reader.files.ranges_with(paths))
    files = {row.path: row for found, _ in parts for row in found}
    return files, {digest: info for _, facts in parts for digest, info in facts.items()}


def named_media(samples: Iterable[Sample]) -> set[str]:
    """Return the normalized paths of the media that samples name."""
    return {safe_path(path) for sample in samples for path in sample.media}


def require_split(splits: Collection[str], split: str, name: str) -> None:
    """Require that the split of a selection, if it has one, exists; errors as for `read_contents`."""
    if split and split not in splits:
        raise UserError(f"{name} has no split {split!r}: give one of {', '.join(splits)}")


def require_found(found: AbstractSet[str], selection: Selection, name: str) -> None:
    """Require that a selection has all samples that it names, and at least one.

    Args:
        found: IDs of the selected samples; those that the selection names and any other one suffice.
        selection: The selection.
        name: Name of the commit for messages.

    Raises:
        UserError: No sample meets the conditions, or one that is named does not.
    """
    absent = sorted(selection.samples - found)
    if absent:
        raise UserError(
            f"{name} has no sample {absent[0]!r} in this selection: see `llava-av data ls {name}`"
        )
    if not found and not selection.is_whole:
        raise UserError(
            f"no sample of {name} has media that match {selection.pattern!r}: quote the pattern, as in "
            "'media/*.mp4'"
        )


def stating_split(sample: Sample, split: str) -> Sample:
    """Return a sample of a split as a folder states it, to be committed again to the same split."""
    return sample.model_copy(update={"split": split if split in _STATED else None})
