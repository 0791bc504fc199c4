"""Order of samples: a function of seed, position, datasets and weights, independent of the processes."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from llava_av.datasets.sample_columns import MediaGroups, SampleColumns, columns_of, kinds_of
from llava_av.datasets.schema import Sample
from llava_av.recipe import TrainingRecipe

__all__ = ["SampleOrder", "absent_warmup_kinds", "undrawn_datasets"]

_Indices = npt.NDArray[np.int64]
_EPOCHS_KEPT = 3


def absent_warmup_kinds(samples: Sequence[Sample], recipe: TrainingRecipe) -> tuple[str, ...]:
    """Return the `warmup_kinds` that no sample has; none if no step draws from them."""
    kinds = kinds_of(samples)
    return tuple(kind for kind in recipe.warmup_kinds if recipe.warmup_kind_steps and kind not in kinds)


def undrawn_datasets(samples: Sequence[Sample], weights: Mapping[str, float]) -> tuple[str, ...]:
    """Return the datasets whose weight gives them no sample of an epoch."""
    counts = _apportioned(len(samples), weights) if weights else {}
    return tuple(name for name, count in counts.items() if not count)


class SampleOrder:
    """Indices of the samples of each optimizer step.

    With weights, an epoch has as many samples as without them, and each dataset has its share of them. A
    small dataset with a large weight is repeated; a large one with a small weight continues in later epochs.

    The first steps may draw from some kinds of sample alone. Samples about the same media stay together, so
    that a clip is decoded once and goes through the towers once per step. Each epoch has its own permutation
    of all samples. A step may end one epoch and start the next.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        seed: int,
        recipe: TrainingRecipe,
        weights: Mapping[str, float] = MappingProxyType({}),
        first_step: int = 0,
    ) -> None:
        """Prepare the order.

        Args:
            samples: All samples.
            seed: Seed of the order.
            recipe: Size of a step, and kinds of the first steps.
            weights: Weight of each dataset; empty to draw each sample equally often.
            first_step: Step at which the order starts, the first one of a stage.
        """
        self._first_step = first_step
        columns = columns_of(samples)
        first = np.flatnonzero(columns.kinds.is_any_of(recipe.warmup_kinds))
        self._warmup_steps = recipe.warmup_kind_steps if len(first) else 0
        size = recipe.global_batch_size

        def epochs(chosen: _Indices) -> _Epochs:
            if weights and len(chosen):
                return _MixedEpochs(columns, chosen, seed, size, weights)
            return _Epochs(columns, chosen, (seed,), size)

        self._warmup, self._all = epochs(first), epochs(np.arange(len(samples)))

    def step(self, step: int) -> list[int]:
        """Return the indices of the samples of one step over all processes; steps count from 0."""
        step -= self._first_step
        if step < self._warmup_steps:
            return _as_list(self._warmup.step(step))
        return _as_list(self._all.step(step - self._warmup_steps))

    def next_uses(self, step: int) -> dict[int, int | None]:
        """Return the step that uses each sample of a step again; None if the next epoch lacks it."""
        step -= self._first_step
        start = self._first_step + self._warmup_steps
        if step >= self._warmup_steps:
            found = self._all.next_uses(step - self._warmup_steps)
            return {index: None if next_ is None else start + next_ for index, next_ in found.items()}
        uses: dict[int, int | None] = {}
        for index, next_ in self._warmup.next_uses(step).items():
            if next_ is not None and next_ < self._warmup_steps:
                uses[index] = self._first_step + next_
            else:
                first = self._all.first_use(index)
                uses[index] = None if first is None else start + first
        return uses


class _Epochs:
    """Endless epochs over a selection of the samples."""

    def __init__(
        self, columns: SampleColumns, chosen: _Indices, seed: tuple[int, ...], batch_size: int
    ) -> None:
        self._seed = seed
        self._batch_size = batch_size
        self._size, self._samples = len(chosen), len(columns.media)
        self._groups = MediaGroups.of(chosen, columns.media[chosen])
        self._orders: dict[int, _Indices] = {}
        self._places: dict[int, _Indices] = {}

    def step(self, step: int) -> _Indices:
        epoch, offset = divmod(step * self._batch_size, self._size)
        parts: list[_Indices] = []
        missing = self._batch_size
        while missing:
            parts.append(self._order_of(epoch)[offset : offset + missing])
            missing -= len(parts[-1])
            epoch, offset = epoch + 1, 0
        return np.concatenate(parts)

    def next_uses(self, step: int) -> dict[int, int | None]:
        """Return the step of the next epoch that uses each sample of a step."""
        first = step * self._batch_size
        return {
            index: self._use_in((first + number) // self._size + 1, index)
            for number, index in enumerate(_as_list(self.step(step)))
        }

    def first_use(self, index: int) -> int | None:
        """Return the step of the first epoch that uses a sample."""
        return self._use_in(0, index)

    def _use_in(self, epoch: int, index: int) -> int | None:
        if epoch not in self._places:
            _keep_newest(self._places, epoch)
            order = self._order_of(epoch)
            places = self._places[epoch] = np.full(self._samples, -1)
            # The first of several uses.
            places[order[::-1]] = np.arange(len(order))[::-1]
        place = int(self._places[epoch][index])
        return (epoch * self._size + place) // self._batch_size if place >= 0 else None

    def _order_of(self, epoch: int) -> _Indices:
        if epoch not in self._orders:
            _keep_newest(self._orders, epoch)
            self._orders[epoch] = self._shuffled(epoch, self._groups_of(epoch))
        return self._orders[epoch]

    def _groups_of(self, epoch: int) -> MediaGroups:
        """Return the samples of an epoch, those about the same media together."""
        return self._groups

    def _shuffled(self, epoch: int, groups: MediaGroups) -> _Indices:
        return groups.joined(np.random.default_rng([*self._seed, epoch, 0x0DE5]).permutation(len(groups)))


class _MixedEpochs(_Epochs):
    """Endless epochs over a selection of the samples, with every dataset's share in each epoch."""

    def __init__(
        self,
        columns: SampleColumns,
        chosen: _Indices,
        seed: int,
        batch_size: int,
        weights: Mapping[str, float],
    ) -> None:
        super().__init__(columns, chosen, (seed,), batch_size)
        self._media = columns.media
        datasets = columns.datasets
        numbers = datasets.numbers[chosen]
        by_dataset = {datasets.names[number]: chosen[numbers == number] for number in dict.fromkeys(numbers)}
        counts = _apportioned(len(chosen), {name: weights[name] for name in by_dataset})
        self._parts = [
            # Seeded by name, not by number, so that the order within a dataset does not depend on the others.
            _Epochs(columns, own, (seed, zlib.crc32(name.encode())), counts[name])
            for name, own in by_dataset.items()
            if counts[name]
        ]

    def _groups_of(self, epoch: int) -> MediaGroups:
        drawn = np.concatenate([part.step(epoch) for part in self._parts])
        return MediaGroups.of_runs(drawn, self._media[drawn])


def _as_list(indices: _Indices) -> list[int]:
    found: list[int] = indices.tolist()
    return found


def _keep_newest(cached: dict[int, _Indices], epoch: int) -> None:
    """Make room for an epoch: a step, its end and the next use of its samples are in at most three."""
    while len(cached) >= _EPOCHS_KEPT:
        del cached[min(cached) if min(cached) < epoch else max(cached)]


def _apportioned(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Divide a number by weights into whole numbers: the largest remainders get the rest."""
    whole = sum(weights.values())
    exact = {name: total * weight / whole for name, weight in weights.items()}
    counts = {name: math.floor(value) for name, value in exact.items()}
    rest = total - sum(counts.values())
    for name in sorted(exact, key=lambda name: (counts[name] - exact[name], name))[:rest]:
        counts[name] += 1
    return counts
