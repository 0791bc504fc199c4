"""Columns of many samples, from which order and shares are computed without the samples themselves."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from llava_av.datasets.mix import media_of
from llava_av.datasets.schema import Sample

__all__ = ["NamedColumn", "SampleColumns", "columns_of"]

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

    def are_any(self, names: Collection[str]) -> npt.NDArray[np.bool_]:
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
    """Number of each sample's media: equal for samples about the same media (`media_of`)."""
    kinds: NamedColumn
    datasets: NamedColumn

    def of_rows(self, rows: npt.NDArray[np.int64]) -> SampleColumns:
        """Return the columns of some samples."""
        return SampleColumns(self.media[rows], self.kinds.of_rows(rows), self.datasets.of_rows(rows))


@runtime_checkable
class _HasColumns(Protocol):
    columns: SampleColumns


def columns_of(samples: Sequence[Sample]) -> SampleColumns:
    """Return the columns of some samples."""
    if isinstance(samples, _HasColumns):
        return samples.columns
    numbers: dict[Hashable, int] = {}
    media = np.array([numbers.setdefault(media_of(one), len(numbers)) for one in samples], np.int64)
    return SampleColumns(
        media=media,
        kinds=NamedColumn.of(one.kind for one in samples),
        datasets=NamedColumn.of(one.dataset for one in samples),
    )
