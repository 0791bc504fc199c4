"""Union of several commits, without downloading their media.

Samples are merged by ID and files by path. Rows that are equal in several commits are kept once, and rows
that differ are conflicts. A media file that samples of two splits use is also a conflict. The rows are read
once to find all conflicts before anything is written. A file is identified by its digest, so a copy under
another path counts as the same file.

All rows are streamed. The IDs and paths of the samples outside of the training split, and all paths of their
files, are kept in memory: about 400 bytes for each such sample with one file.
"""

import heapq
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

from llava_av.datasets.commits import Commit
from llava_av.datasets.derived_content import (
    DescribedFile,
    RangeWriter,
    best_described,
    described_files,
    media_paths,
)
from llava_av.datasets.manifest import CommitError, QuarantinedEntry
from llava_av.datasets.ranges import FileRow, SampleLine, sample_line
from llava_av.datasets.reading import ContentReader
from llava_av.datasets.schema import Sample, parse_stored
from llava_av.plurals import count_of, listed
from llava_av.storage import ObjectStore

__all__ = ["MergeResult", "write_union"]

_TRAIN = "train"
_MOST_NAMES = 5
_PREFIX = "rename them, or merge with --prefix to prefix each ID and path with the name of its dataset"
_SHARED = (
    "leave them out of the training split with --leave-out-shared, or merge parts of the datasets (`llava-av "
    "data filter`)"
)


@dataclass(frozen=True, kw_only=True)
class MergeResult:
    """Content of a merged commit."""

    content: ContentReader
    left_out: int
    """Number of training samples that were left out because they share media with another split."""


def write_union(
    store: ObjectStore,
    name: str,
    commits: Sequence[Commit],
    *,
    prefix: bool = False,
    leave_out_shared: bool = False,
) -> MergeResult:
    """Write the union of commits as the content of a new commit.

    Args:
        store: Store of all commits.
        name: Name of the new commit's dataset.
        commits: The commits.
        prefix: True to prefix each ID and path with the name of its dataset.
        leave_out_shared: True to leave out training samples that share media with another split.

    Raises:
        CommitError: Samples or files conflict, or a media file would be in two splits; the message names the
            first ones. Or a list of samples or files is lost or damaged.
        StoreError: The object store cannot be used.
    """
    union = _Union([_MergedCommit(store, commit, prefix=prefix) for commit in commits])
    left_out = _Check(union, leave_out_shared=leave_out_shared).run()
    unused = set().union(*left_out.values())
    writer = RangeWriter(store, name)
    for split in union.splits:
        writer.write_samples(split, _used_lines(union, split, left_out.keys(), unused))
    writer.write_files(each for each in union.files() if each.row.path not in unused)
    return MergeResult(content=writer.content(union.quarantined()), left_out=len(left_out))


def _used_lines(
    union: "_Union", split: str, left_out: AbstractSet[str], unused: set[str]
) -> Iterator[SampleLine]:
    """Yield the samples of a split that are not left out, and remove their media from `unused`."""
    for line, *_ in union.lines(split):
        if split == _TRAIN and line.id in left_out:
            continue
        if unused:
            unused -= media_paths(line)
        yield line


class _MergedCommit:
    """A commit to merge."""

    def __init__(self, store: ObjectStore, commit: Commit, *, prefix: bool) -> None:
        self._store, self._commit = store, commit
        self._reader = commit.reader(store)
        self._prefix = f"{commit.name}/" if prefix else ""
        self.title = commit.title
        self.splits = tuple(self._reader.splits)

    def lines(self, split: str) -> Iterator[SampleLine]:
        """Yield the samples of a split by ID."""
        if split not in self.splits:
            return
        for number, line in enumerate(self._reader.samples(split), start=1):
            yield sample_line(self._renamed(parse_stored(line.text, number))) if self._prefix else line

    def _renamed(self, sample: Sample) -> Sample:
        media = {
            role: tuple(f"{self._prefix}{path}" for path in getattr(sample, role))
            for role in ("image", "video", "audio")
        }
        return sample.model_copy(update={"id": f"{self._prefix}{sample.id}", **media})

    def rows(self) -> Iterator[FileRow]:
        """Yield the files by path."""
        for row in self._reader.files:
            yield row._replace(path=f"{self._prefix}{row.path}")

    def files(self) -> Iterator[DescribedFile]:
        """Yield the files by path, with their properties."""
        for each in described_files(self._store, self._commit):
            row = each.row._replace(path=f"{self._prefix}{each.row.path}")
            yield each._replace(row=row)

    def quarantined(self) -> Iterator[QuarantinedEntry]:
        """Yield the omissions, with the name of the dataset."""
        for one in self._reader.quarantined:
            yield one.model_copy(update={"file": f"{self._commit.name}/{one.file}"})


class _Union:
    """Merged rows of all sources, in groups with equal keys."""

    def __init__(self, sources: Sequence[_MergedCommit]) -> None:
        self._sources = sources
        self.splits = tuple(sorted({split for source in sources for split in source.splits}))
        self.titles = listed([source.title for source in sources], _MOST_NAMES)

    def lines(self, split: str) -> Iterator[list[SampleLine]]:
        """Yield the samples of a split by ID."""
        merged = heapq.merge(*(source.lines(split) for source in self._sources), key=attrgetter("id"))
        return (list(group) for _, group in groupby(merged, key=attrgetter("id")))

    def rows(self) -> Iterator[list[FileRow]]:
        """Yield the files by path."""
        merged = heapq.merge(*(source.rows() for source in self._sources), key=attrgetter("path"))
        return (list(group) for _, group in groupby(merged, key=attrgetter("path")))

    def quarantined(self) -> list[QuarantinedEntry]:
        """Return the omissions of all sources."""
        found = {(one.file, one.reason): one for source in self._sources for one in source.quarantined()}
        return list(found.values())

    def files(self) -> Iterator[DescribedFile]:
        """Yield the files by path, with their properties."""
        merged = heapq.merge(*(source.files() for source in self._sources), key=attrgetter("row.path"))
        for _, group in groupby(merged, key=attrgetter("row.path")):
            yield best_described(list(group))


class _Check:
    """Search for conflicts, and for training samples to leave out."""

    def __init__(self, union: _Union, *, leave_out_shared: bool) -> None:
        self._union, self._leave_out_shared = union, leave_out_shared
        self._ids: dict[str, str] = {}
        """Split of each sample outside of the training split, by ID."""
        self._paths: dict[str, str] = {}
        """Split of each file of these samples, by path; then also by the other paths of its content."""
        self._samples = _Conflicts(f"of {union.titles} with equal IDs but different content or another split")
        self._files = _Conflicts(f"of {union.titles} with equal paths but different content")
        self._shared = _Conflicts(f"of {union.titles} with media of another split")
        self.left_out: dict[str, set[str]] = {}
        """Media of each training sample to leave out, by its ID."""

    def run(self) -> dict[str, set[str]]:
        """Return the media of each training sample to leave out, by its ID.

        Raises:
            CommitError: There is a conflict.
        """
        for split in self._union.splits:
            if split != _TRAIN:
                self._check_held(split)
        self._check_files()
        for group in self._union.lines(_TRAIN):
            self._check_train(group)
        self._samples.require_none("sample", _PREFIX)
        self._files.require_none("file", _PREFIX)
        self._shared.require_none("sample", _SHARED)
        return self.left_out

    def _check_held(self, split: str) -> None:
        for group in self._union.lines(split):
            self._require_equal(group, split)
            for path in media_paths(group[0]):
                if self._paths.setdefault(path, split) != split:
                    self._shared.add(f"{group[0].id} ({path}, {self._paths[path]})")

    def _require_equal(self, group: Sequence[SampleLine], split: str) -> None:
        first = group[0]
        known = self._ids.get(first.id) if split == _TRAIN else self._ids.setdefault(first.id, split)
        if known not in (None, split) or any(line.text != first.text for line in group):
            self._samples.add(first.id)

    def _check_files(self) -> None:
        splits: dict[str, str] = {}
        for group in self._union.rows():
            first = group[0]
            if any(row.sha256 != first.sha256 for row in group):
                self._files.add(first.path)
            if (split := self._paths.get(first.path)) and splits.setdefault(first.sha256, split) != split:
                self._shared.add(f"{first.path} ({split}, {splits[first.sha256]})")
        for group in self._union.rows():
            if split := splits.get(group[0].sha256):
                self._paths[group[0].path] = split

    def _check_train(self, group: Sequence[SampleLine]) -> None:
        self._require_equal(group, _TRAIN)
        paths = media_paths(group[0])
        shared = sorted(paths & self._paths.keys())
        if shared and self._leave_out_shared:
            self.left_out[group[0].id] = paths
        elif shared:
            self._shared.add(f"{group[0].id} ({shared[0]}, {self._paths[shared[0]]})")


class _Conflicts:
    """Number and first names of the samples or files with a conflict."""

    def __init__(self, problem: str) -> None:
        self._problem = problem
        self._count = 0
        self._names: list[str] = []

    def add(self, name: str) -> None:
        """Add a sample or file."""
        self._count += 1
        if len(self._names) < _MOST_NAMES:
            self._names.append(name)

    def require_none(self, noun: str, advice: str) -> None:
        """Require that none was added."""
        if self._count:
            more = f" and {self._count - len(self._names)} more" if self._count > len(self._names) else ""
            names = ", ".join(self._names) + more
            count = count_of(self._count, noun)
            raise CommitError(f"cannot merge {count} {self._problem}: {names}; {advice}")
