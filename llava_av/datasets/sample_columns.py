"""Columns of many samples, from which order and shares are computed without the samples themselves."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from llava_av.datasets.schema import Sample

__all__ = ["LazySamples", "MediaGroups", "NamedColumn", "SampleColumns", "columns_of", "kinds_of", "take"]

_Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class NamedColumn:
    """A column with few values."""

    names: tuple[str, ...]
    """Values, each of which has a row."""
    numbers: npt.NDArray[np.integer]
    """Place of each row's value in `names`."""

    @classmethod
    def of(cls, values: Iterable[str]) -> NamedColumn:
        """Return the column with some values."""
        names: dict[str, int] = {}
        numbers = np.array([names.setdefault(value, len(names)) for value in values], np.int64)
        return cls(tuple(names), numbers)

    @classmethod
    def joined(cls, columns: Sequence[NamedColumn]) -> NamedColumn:
        """Return the column of the rows of some columns, one after the other."""
        names: dict[str, int] = {}
        numbers = [np.zeros(0, np.int32)]
        for one in columns:
            places = np.array([names.setdefault(name, len(names)) for name in one.names], np.int32)
            numbers.append(places[one.numbers])
        return cls(tuple(names), np.concatenate(numbers))

    def is_any_of(self, names: Collection[str]) -> npt.NDArray[np.bool_]:
        """Check for each row whether its value is one of some values."""
        return np.isin(self.numbers, [number for number, name in enumerate(self.names) if name in names])

    def of_rows(self, rows: npt.NDArray[np.int64]) -> NamedColumn:
        """Return the column of some rows."""
        used, numbers = np.unique(self.numbers[rows], return_inverse=True)
        return NamedColumn(tuple(self.names[number] for number in used.tolist()), numbers)

    def counts(self) -> dict[str, int]:
        """Return the number of rows of each value."""
        found = np.bincount(self.numbers, minlength=len(self.names)).tolist()
        return dict(zip(self.names, found, strict=True))


@dataclass(frozen=True, eq=False)
class SampleColumns:
    """Properties of many samples that their order depends on."""

    media: _Integers
    """Number of each sample's media, equal for samples about the same media; text-only samples share none."""
    kinds: NamedColumn
    datasets: NamedColumn

    def of_rows(self, rows: npt.NDArray[np.int64]) -> SampleColumns:
        """Return the columns of some samples."""
        return SampleColumns(self.media[rows], self.kinds.of_rows(rows), self.datasets.of_rows(rows))


@dataclass(frozen=True, eq=False)
class MediaGroups:
    """Groups of samples."""

    members: _Integers
    """Samples, group by group."""
    starts: _Integers
    """Place of the first member of each group."""

    @classmethod
    def of(cls, chosen: _Integers, media: _Integers) -> MediaGroups:
        """Group samples by their media, in the order of the first sample about each."""
        # The first place of each number; earlier places overwrite later ones.
        first = np.zeros(int(media.max(initial=-1)) + 1, np.int64)
        first[media[::-1]] = np.arange(len(media))[::-1]
        by_group = np.argsort(first[media], kind="stable")
        return cls.of_runs(chosen[by_group], media[by_group])

    @classmethod
    def of_runs(cls, chosen: _Integers, media: _Integers) -> MediaGroups:
        """Group adjacent samples about the same media."""
        return cls(chosen, np.flatnonzero(np.diff(media, prepend=-1)))

    def __len__(self) -> int:
        return len(self.starts)

    def joined(self, order: _Integers) -> _Integers:
        """Return the members of all groups, in the order of these groups."""
        lengths = np.diff(self.starts, append=len(self.members))[order]
        ends = np.cumsum(lengths)
        places: _Integers = np.repeat(self.starts[order] - ends + lengths, lengths) + np.arange(ends[-1])
        return self.members[places]


class LazySamples(Sequence["Sample"]):
    """Samples that are read when they are used, and whose columns are known."""

    columns: SampleColumns

    @abstractmethod
    def select(self, places: _Integers) -> Sequence[Sample]:
        """Return some of the samples."""

    @abstractmethod
    def at(self, place: int) -> Sample:
        """Return the sample at a place, which exists."""

    @overload
    def __getitem__(self, place: int) -> Sample: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[Sample, ...]: ...

    def __getitem__(self, place: int | slice) -> Sample | tuple[Sample, ...]:
        if isinstance(place, slice):
            return tuple(map(self.at, range(*place.indices(len(self)))))
        return self.at(range(len(self))[place])

    def __iter__(self) -> Iterator[Sample]:
        return map(self.at, range(len(self)))


def columns_of(samples: Sequence[Sample]) -> SampleColumns:
    """Return the columns of some samples."""
    if isinstance(samples, LazySamples):
        return samples.columns
    numbers: dict[Hashable, int] = {}
    media = np.array([numbers.setdefault(_media_of(one), len(numbers)) for one in samples], np.int64)
    return SampleColumns(
        media=media,
        kinds=NamedColumn.of(one.kind for one in samples),
        datasets=NamedColumn.of(one.dataset for one in samples),
    )


def kinds_of(samples: Sequence[Sample]) -> tuple[str, ...]:
    """Return the kinds of some samples, without repetition."""
    if isinstance(samples, LazySamples):
        return samples.columns.kinds.names
    return tuple(dict.fromkeys(one.kind for one in samples))


def take(samples: Sequence[Sample], places: _Integers) -> Sequence[Sample]:
    """Return the samples at some places."""
    if isinstance(samples, LazySamples):
        return samples.select(places)
    return tuple(samples[place] for place in places.tolist())


def _media_of(sample: Sample) -> tuple[tuple[str, ...], ...]:
    """Return a key that is equal for samples about the same media; text-only samples share none."""
    media = (sample.image, sample.video, sample.audio)
    return media if any(media) else ((sample.id,),)
