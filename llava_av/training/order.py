"""Order of samples: a function of seed, position, datasets and weights, independent of the processes."""

import itertools
import math
import zlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from llava_av.datasets.mix import media_of
from llava_av.datasets.schema import Sample
from llava_av.recipe import TrainingRecipe

__all__ = ["SampleOrder", "absent_warmup_kinds", "undrawn_datasets"]


def absent_warmup_kinds(samples: Sequence[Sample], recipe: TrainingRecipe) -> tuple[str, ...]:
    """Return the `warmup_kinds` that no sample has; none if no step draws from them."""
    kinds = {sample.kind for sample in samples}
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
        every = range(len(samples))
        first = [index for index in every if samples[index].kind in recipe.warmup_kinds]
        self._warmup_steps = recipe.warmup_kind_steps if first else 0
        size = recipe.global_batch_size

        def epochs(chosen: Sequence[int]) -> _Epochs:
            if weights and chosen:
                return _MixedEpochs(samples, chosen, seed, size, weights)
            return _Epochs(samples, chosen, (seed,), size)

        self._warmup, self._all = epochs(first), epochs(every)

    def step(self, step: int) -> list[int]:
        """Return the indices of the samples of one step over all processes; steps count from 0."""
        step -= self._first_step
        if step < self._warmup_steps:
            return self._warmup.step(step)
        return self._all.step(step - self._warmup_steps)


class _Epochs:
    """Endless epochs over a selection of the samples."""

    def __init__(
        self, samples: Sequence[Sample], chosen: Sequence[int], seed: tuple[int, ...], batch_size: int
    ) -> None:
        self._seed = seed
        self._batch_size = batch_size
        self._size = len(chosen)
        by_media: dict[tuple[tuple[str, ...], ...], list[int]] = {}
        for index in chosen:
            by_media.setdefault(media_of(samples[index]), []).append(index)
        self._groups = list(by_media.values())
        self._epoch = -1
        self._epoch_order: list[int] = []

    def step(self, step: int) -> list[int]:
        epoch, offset = divmod(step * self._batch_size, self._size)
        indices: list[int] = []
        while len(indices) < self._batch_size:
            order = self._order_of(epoch)
            indices.extend(order[offset : offset + self._batch_size - len(indices)])
            epoch, offset = epoch + 1, 0
        return indices

    def _order_of(self, epoch: int) -> list[int]:
        if epoch != self._epoch:
            self._epoch, self._epoch_order = epoch, self._shuffled(epoch, self._groups_of(epoch))
        return self._epoch_order

    def _groups_of(self, epoch: int) -> Sequence[list[int]]:
        """Return the samples of an epoch, those about the same media together."""
        return self._groups

    def _shuffled(self, epoch: int, groups: Sequence[list[int]]) -> list[int]:
        shuffled = np.random.default_rng([*self._seed, epoch, 0x0DE5]).permutation(len(groups))
        return [index for group in shuffled for index in groups[group]]


class _MixedEpochs(_Epochs):
    """Endless epochs over a selection of the samples, with every dataset's share in each epoch."""

    def __init__(
        self,
        samples: Sequence[Sample],
        chosen: Sequence[int],
        seed: int,
        batch_size: int,
        weights: Mapping[str, float],
    ) -> None:
        super().__init__(samples, chosen, (seed,), batch_size)
        self._samples = samples
        by_dataset: dict[str, list[int]] = {}
        for index in chosen:
            by_dataset.setdefault(samples[index].dataset, []).append(index)
        counts = _apportioned(len(chosen), {name: weights[name] for name in by_dataset})
        self._parts = [
            # Seeded by name, not by number, so that the order within a dataset does not depend on the others.
            _Epochs(samples, own, (seed, zlib.crc32(name.encode())), counts[name])
            for name, own in by_dataset.items()
            if counts[name]
        ]

    def _groups_of(self, epoch: int) -> Sequence[list[int]]:
        drawn = [index for part in self._parts for index in part.step(epoch)]
        runs = itertools.groupby(drawn, key=lambda index: media_of(self._samples[index]))
        return [list(run) for _, run in runs]


def _apportioned(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Divide a number by weights into whole numbers: the largest remainders get the rest."""
    whole = sum(weights.values())
    exact = {name: total * weight / whole for name, weight in weights.items()}
    counts = {name: math.floor(value) for name, value in exact.items()}
    rest = total - sum(counts.values())
    for name in sorted(exact, key=lambda name: (counts[name] - exact[name], name))[:rest]:
        counts[name] += 1
    return counts
