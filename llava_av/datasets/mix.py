"""Samples of several dataset commits as one sequence.

IDs and media paths get the name or folder of their dataset as a prefix, so that neither can collide. A
training sample is left out if another dataset of the mix holds out a media file with the same content, so
that no held-out clip is trained on.

A sample is read from its dataset when it is used, so memory hardly depends on the number of samples.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from llava_av.datasets.manifest import safe_path
from llava_av.datasets.ranges import FileRow
from llava_av.datasets.sample_columns import (
    LazySamples,
    MediaGroups,
    NamedColumn,
    SampleColumns,
    columns_of,
    take,
)
from llava_av.datasets.schema import Sample
from llava_av.datasets.sources.rows import DatasetError

__all__ = ["DatasetMix", "DatasetSplits", "cap_samples"]

_Places = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class DatasetSplits:
    """Samples of one commit."""

    name: str
    """Name of the dataset."""
    folder: str
    """Folder that precedes its media paths in a run of several datasets."""
    files: Iterable[FileRow]
    """Its media files, which may be read again."""
    train: Sequence[Sample]
    held_out: Sequence[Sample]


class DatasetMix:
    """Samples of several datasets, in the order of the datasets."""

    def __init__(self, datasets: Sequence[DatasetSplits]) -> None:
        self._datasets = datasets

    @cached_property
    def held_out(self) -> Sequence[Sample]:
        """Return the held-out samples."""
        return _JoinedSamples([_Part(one.name, one.folder, one.held_out) for one in self._datasets])

    def train(
        self, most: Callable[[str], int | None] = lambda name: None, seed: int = 0
    ) -> tuple[Sequence[Sample], dict[str, int]]:
        """Return the training samples, and the number of those left out by dataset.

        Args:
            most: Returns the maximum number of samples that are drawn from a dataset; None for all.
            seed: Seed of the draw.

        Raises:
            DatasetError: No training sample of a dataset is left.
        """
        parts, left_out = [], {}
        for one in self._datasets:
            drawn = _drawn(one.train, most(one.name), seed)
            kept = drawn[~self._is_held_out[one.name][drawn]]
            if not len(kept):
                raise DatasetError(
                    f"dataset {one.name}: other datasets of the run hold out the media of all its training "
                    "samples: train on fewer datasets"
                )
            left_out[one.name] = len(drawn) - len(kept)
            whole = len(kept) == len(one.train)
            parts.append(_Part(one.name, one.folder, one.train if whole else take(one.train, kept)))
        return _JoinedSamples(parts), left_out

    @cached_property
    def _is_held_out(self) -> dict[str, npt.NDArray[np.bool_]]:
        """Check for each training sample of each dataset whether another dataset holds out its media."""
        held_out = {one.name: _held_out_digests(one) for one in self._datasets}
        return {
            one.name: _uses_content(
                one, set().union(*(held for name, held in held_out.items() if name != one.name))
            )
            for one in self._datasets
        }


def cap_samples(samples: Sequence[Sample], most: int | None, seed: int) -> Sequence[Sample]:
    """Return at most `most` samples in their order; samples about the same media are drawn together.

    Args:
        samples: Samples of one dataset.
        most: Maximum number; None for all.
        seed: Seed of the draw.
    """
    places = _drawn(samples, most, seed)
    return samples if len(places) == len(samples) else take(samples, places)


def _drawn(samples: Sequence[Sample], most: int | None, seed: int) -> _Places:
    """Return the places of the samples that `cap_samples` returns."""
    if most is None or len(samples) <= most:
        return np.arange(len(samples))
    groups = MediaGroups.of(np.arange(len(samples)), columns_of(samples).media)
    drawn = groups.joined(np.random.default_rng([seed, 0xCA9]).permutation(len(groups)))
    return np.sort(drawn[:most])


def _held_out_digests(dataset: DatasetSplits) -> set[str]:
    paths = {safe_path(path) for sample in dataset.held_out for path in sample.media}
    return {row.sha256 for row in dataset.files if row.path in paths} if paths else set()


def _uses_content(dataset: DatasetSplits, digests: set[str]) -> npt.NDArray[np.bool_]:
    """Check for each training sample whether one of its files has one of some digests."""
    paths = {row.path for row in dataset.files if row.sha256 in digests} if digests else set()
    if not paths:
        return np.zeros(len(dataset.train), np.bool_)
    used = (not paths.isdisjoint(map(safe_path, sample.media)) for sample in dataset.train)
    return np.fromiter(used, np.bool_, len(dataset.train))


@dataclass(frozen=True)
class _Part:
    """Samples of one dataset of a mix."""

    name: str
    folder: str
    samples: Sequence[Sample]

    def sample(self, place: int) -> Sample:
        """Return a sample with the names that it has in the mix."""
        sample = self.samples[place]

        def inside(paths: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(f"{self.folder}/{path}" for path in paths)

        names = {kind: inside(getattr(sample, kind)) for kind in ("image", "video", "audio")}
        return sample.model_copy(
            update={"id": f"{self.name}/{sample.id}", **names, "dataset": self.name},
        )


class _JoinedSamples(LazySamples):
    """Samples of the parts of a mix, or some of them.

    Args:
        parts: Parts of the mix.
        columns: Columns of the samples; None for those of the parts.
        chosen: Places of the samples; None for all.
    """

    def __init__(
        self,
        parts: Sequence[_Part],
        columns: SampleColumns | None = None,
        chosen: _Places | None = None,
    ) -> None:
        self._parts, self._chosen = parts, chosen
        self._ends = list(accumulate(len(part.samples) for part in parts))
        self.columns = _joined_columns(parts) if columns is None else columns
        """Properties that the order of the samples depends on."""

    def select(self, places: _Places) -> _JoinedSamples:
        """Return some of the samples."""
        chosen = places if self._chosen is None else self._chosen[places]
        return _JoinedSamples(self._parts, self.columns.of_rows(places), chosen)

    def __len__(self) -> int:
        return len(self.columns.media)

    def at(self, place: int) -> Sample:
        """Return the sample at a place."""
        place = place if self._chosen is None else int(self._chosen[place])
        number = bisect_right(self._ends, place)
        part = self._parts[number]
        return part.sample(place - self._ends[number] + len(part.samples))


def _joined_columns(parts: Sequence[_Part]) -> SampleColumns:
    found = [(part, columns_of(part.samples)) for part in parts if len(part.samples)]
    media, first = [], 0
    for _, columns in found:
        media.append(columns.media + first)
        first += int(columns.media.max()) + 1
    kinds = NamedColumn.joined([columns.kinds for _, columns in found])
    datasets = NamedColumn.joined(
        [NamedColumn((part.name,), np.zeros(len(columns.media), np.int32)) for part, columns in found]
    )
    return SampleColumns(np.concatenate([np.zeros(0, np.int64), *media]), kinds, datasets)
