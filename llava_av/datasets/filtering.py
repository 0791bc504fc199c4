"""Subset of a commit as the content of a new one, without downloading its media.

All rows are streamed. The paths of the files that the subset uses are kept in memory, about 150 bytes each. A
condition on durations or modalities also keeps the paths of the files that do not meet it, or have no audio.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from llava_av.datasets.commits import Commit
from llava_av.datasets.contents import Selection, require_split
from llava_av.datasets.derived_content import RangeWriter, described_files
from llava_av.datasets.manifest import safe_path
from llava_av.datasets.ranges import SampleLine
from llava_av.datasets.reading import ContentReader
from llava_av.datasets.schema import Sample, parse_stored
from llava_av.datasets.statistics import modalities_of
from llava_av.errors import UserError
from llava_av.plurals import count_of, listed
from llava_av.storage import ObjectStore
from llava_av.vocabulary import family_of

__all__ = ["Conditions", "write_subset"]

_MOST_NAMES = 20


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Conditions on the samples of a subset, all of which a sample must meet."""

    split: str = ""
    """Split of the samples; all if empty."""
    pattern: str = ""
    """Shell pattern that a media path of the sample matches; all if empty."""
    kind: str = ""
    """Kind of question, or its family; all if empty."""
    modalities: str = ""
    """Modalities of the samples as in `Statistics.modalities`; all if empty."""
    min_duration_s: float | None = None
    """Shortest duration of each video and audio file; samples without any do not meet it."""
    max_duration_s: float | None = None
    """Longest duration; otherwise as `min_duration_s`."""

    @property
    def selection(self) -> Selection:
        """Return the conditions on split and paths as a selection."""
        return Selection(split=self.split, pattern=self.pattern)

    @property
    def has_durations(self) -> bool:
        """Check whether there is a condition on durations."""
        return self.min_duration_s is not None or self.max_duration_s is not None

    def allows_duration(self, seconds: float) -> bool:
        """Check whether a file of this duration meets the conditions."""
        longest = self.max_duration_s
        return seconds >= (self.min_duration_s or 0.0) and (longest is None or seconds <= longest)

    def allows_kind(self, kind: str) -> bool:
        """Check whether a kind meets the conditions."""
        return self.kind in ("", kind, family_of(kind))

    def __str__(self) -> str:
        """Return the conditions as options of `llava-av data filter`."""
        options = {
            "split": self.split,
            "pattern": self.pattern,
            "kind": self.kind,
            "modalities": self.modalities,
            "min-duration": "" if self.min_duration_s is None else f"{self.min_duration_s:g}",
            "max-duration": "" if self.max_duration_s is None else f"{self.max_duration_s:g}",
        }
        return " ".join(f"--{name} {value}" for name, value in options.items() if value)


@dataclass(frozen=True, kw_only=True)
class _Properties:
    """Media files by the properties that the conditions use."""

    unknown: frozenset[str] = frozenset()
    """Paths of files whose properties are unknown."""
    silent: frozenset[str] = frozenset()
    """Paths of files without audio."""
    outside: frozenset[str] = frozenset()
    """Paths of files whose duration is not allowed."""

    def has_audio(self, path: str) -> bool:
        """Check whether a file has audio."""
        return path not in self.silent


def write_subset(store: ObjectStore, name: str, commit: Commit, conditions: Conditions) -> ContentReader:
    """Write the subset of a commit that meets conditions as the content of a new commit.

    A split without samples is left out, and so are the omissions of the commit unless all of it is kept.

    Args:
        store: Store of both commits.
        name: Name of the new commit's dataset.
        commit: The commit.
        conditions: Conditions on the samples.

    Raises:
        UserError: There is no such split or kind, no sample meets the conditions, or properties of media that
            they need are unknown.
        CommitError: A list of samples or files is lost or damaged.
        StoreError: The object store cannot be used.
    """
    reader, title = commit.reader(store), commit.title
    require_split(reader.splits, conditions.split, title)
    _require_kind(reader, conditions, title)
    subset = _Subset(reader, title, conditions, _properties(store, commit, conditions))
    writer = RangeWriter(store, name)
    for split in reader.splits:
        if conditions.split in ("", split):
            writer.write_samples(split, subset.lines(split))
    if not subset.samples:
        raise UserError(f"no sample of {title} meets {conditions}: see `llava-av data stats {title}`")
    writer.write_files(each for each in described_files(store, commit) if each.row.path in subset.paths)
    return writer.content(reader.quarantined if conditions == Conditions() else ())


def _require_kind(reader: ContentReader, conditions: Conditions, title: str) -> None:
    ranges = (one for split in reader.splits for one in reader.samples(split).ranges)
    kinds = sorted({kind for one in ranges for kind in one.kinds})
    if not any(map(conditions.allows_kind, kinds)):
        raise UserError(
            f"{title} has no kind {conditions.kind!r}: give one of {listed(kinds, _MOST_NAMES)}, or a family"
        )


def _properties(store: ObjectStore, commit: Commit, conditions: Conditions) -> _Properties:
    if not conditions.has_durations and not conditions.modalities:
        return _Properties()
    unknown: set[str] = set()
    silent: set[str] = set()
    outside: set[str] = set()
    for row, info, *_ in described_files(store, commit):
        if info is None:
            unknown.add(row.path)
            continue
        if conditions.modalities and not info.has_audio:
            silent.add(row.path)
        if conditions.has_durations and not conditions.allows_duration(info.duration_s):
            outside.add(row.path)
    return _Properties(unknown=frozenset(unknown), silent=frozenset(silent), outside=frozenset(outside))


class _Subset:
    """Samples of a commit that meet conditions; counts them, and collects their media."""

    def __init__(
        self, reader: ContentReader, title: str, conditions: Conditions, properties: _Properties
    ) -> None:
        self._reader, self._title = reader, title
        self._conditions, self._properties = conditions, properties
        self._selection = conditions.selection
        self.samples = 0
        self.paths: set[str] = set()

    def lines(self, split: str) -> Iterator[SampleLine]:
        """Yield the samples of a split by ID."""
        for number, line in enumerate(self._reader.samples(split), start=1):
            if not self._conditions.allows_kind(line.kind):
                continue
            sample = parse_stored(line.text, number)
            if self._selection.includes(sample) and self._has_allowed_media(sample):
                self.samples += 1
                self.paths.update(map(safe_path, sample.media))
                yield line

    def _has_allowed_media(self, sample: Sample) -> bool:
        conditions, properties = self._conditions, self._properties
        timed = set(map(safe_path, sample.video + sample.audio))
        if conditions.has_durations:
            self._require_known(sample, timed)
            if not timed or timed & properties.outside:
                return False
        if not conditions.modalities:
            return True
        self._require_known(sample, set(map(safe_path, sample.video)) if sample.use_audio else set())
        return modalities_of(sample, properties.has_audio) == conditions.modalities

    def _require_known(self, sample: Sample, paths: set[str]) -> None:
        unknown = sorted(paths & self._properties.unknown)
        if unknown:
            raise UserError(
                f"sample {sample.id} of {self._title} has {count_of(len(unknown), 'file')} whose duration "
                f"and tracks are unknown ({listed(unknown, 3)}), but {self._conditions} needs them: commit "
                "the folder again"
            )
