"""Samples and media files of a commit, read from the store without a checkout."""

from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from llava_av.datasets.commits import Commit
from llava_av.datasets.manifest import safe_path
from llava_av.datasets.media_facts import read_facts
from llava_av.datasets.ranges import FileRow
from llava_av.datasets.reading import ContentReader
from llava_av.datasets.schema import Sample, parse_stored
from llava_av.errors import UserError
from llava_av.media.info import MediaInfo
from llava_av.storage import ObjectStore

__all__ = [
    "Contents",
    "Selection",
    "named_media",
    "read_contents",
    "read_samples",
    "require_found",
    "require_split",
    "select",
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


def read_contents(store: ObjectStore, commit: Commit) -> Contents:
    """Read the samples and files of a commit.

    Raises:
        CommitError: A list of samples or files is lost or damaged.
        StoreError: The object store cannot be used.
    """
    reader = commit.reader(store)
    return Contents(
        samples={split: read_samples(reader, split) for split in reader.splits},
        files={row.path: row for row in reader.files},
        facts=read_facts(store, commit),
    )


def read_samples(reader: ContentReader, split: str) -> tuple[Sample, ...]:
    """Read the samples of one split of a commit; errors as for `read_contents`."""
    lines = enumerate(reader.samples(split), start=1)
    return tuple(parse_stored(line.text, number) for number, line in lines)


def select(contents: Contents, selection: Selection, name: str) -> Contents:
    """Return a part of a commit's contents.

    Args:
        contents: Contents of the commit.
        selection: Part that is wanted.
        name: Name of the commit for messages.

    Raises:
        UserError: There is no such split, or no sample meets the conditions; names those that do not exist.
    """
    require_split(contents.samples, selection.split, name)
    chosen = {
        split: tuple(sample for sample in samples if selection.includes(sample))
        for split, samples in contents.samples.items()
        if selection.split in ("", split)
    }
    require_found({sample.id for own in chosen.values() for sample in own}, selection, name)
    paths = named_media(sample for samples in chosen.values() for sample in samples)
    files = {path: entry for path, entry in contents.files.items() if path in paths}
    return Contents(samples=chosen, files=files, facts=contents.facts)


def named_media(samples: Iterable[Sample]) -> set[str]:
    """Return the normalized paths of the media that samples name."""
    return {safe_path(path) for sample in samples for path in sample.media}


def require_split(splits: Collection[str], split: str, name: str) -> None:
    """Require that the split of a selection, if it has one, exists; arguments and errors as for `select`."""
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
