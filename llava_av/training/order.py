"""Order of samples: a function of seed, position and dataset, independent of the number of processes."""

from collections.abc import Sequence

import numpy as np

from llava_av.datasets.schema import Sample
from llava_av.recipe import TrainingRecipe

__all__ = ["SampleOrder", "absent_warmup_kinds"]


def absent_warmup_kinds(samples: Sequence[Sample], recipe: TrainingRecipe) -> tuple[str, ...]:
    """Return the `warmup_kinds` that no sample has; none if no step draws from them."""
    kinds = {sample.kind for sample in samples}
    return tuple(kind for kind in recipe.warmup_kinds if recipe.warmup_kind_steps and kind not in kinds)


class SampleOrder:
    """Indices of the samples of each optimizer step.

    The first steps may draw from some kinds of sample alone. Samples about the same media stay together, so
    that a clip is decoded once and goes through the towers once per step. Each epoch has its own permutation
    of all samples. A step may end one epoch and start the next.
    """

    def __init__(self, samples: Sequence[Sample], *, seed: int, recipe: TrainingRecipe) -> None:
        every = range(len(samples))
        first = [index for index in every if samples[index].kind in recipe.warmup_kinds]
        self._warmup_steps = recipe.warmup_kind_steps if first else 0
        self._warmup = _Epochs(samples, first, seed, recipe.global_batch_size)
        self._all = _Epochs(samples, every, seed, recipe.global_batch_size)

    def step(self, step: int) -> list[int]:
        """Return the indices of the samples of one step over all processes; steps count from 0."""
        if step < self._warmup_steps:
            return self._warmup.step(step)
        return self._all.step(step - self._warmup_steps)


class _Epochs:
    """Endless epochs over a selection of the samples."""

    def __init__(self, samples: Sequence[Sample], chosen: Sequence[int], seed: int, batch_size: int) -> None:
        self._seed = seed
        self._batch_size = batch_size
        self._size = len(chosen)
        by_media: dict[tuple[tuple[str, ...], ...], list[int]] = {}
        for index in chosen:
            sample = samples[index]
            media = (sample.image, sample.video, sample.audio)
            # Text-only samples share no media.
            by_media.setdefault(media if any(media) else ((sample.id,),), []).append(index)
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
            shuffled = np.random.default_rng([self._seed, epoch, 0x0DE5]).permutation(len(self._groups))
            self._epoch, self._epoch_order = epoch, [i for group in shuffled for i in self._groups[group]]
        return self._epoch_order
