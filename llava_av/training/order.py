"""The order of samples: a function of seed, position and dataset, never of the number of processes."""

from collections.abc import Sequence

import numpy as np

from llava_av.datasets.schema import Sample

__all__ = ["SampleOrder"]


class SampleOrder:
    """Which samples each optimizer step takes.

    Samples that ask about the same media stay together, so that a clip is decoded once and goes through the
    towers once a step. Epochs follow each other without a gap: a step may end one epoch and begin the next;
    each epoch has its own permutation and each sample comes once an epoch.
    """

    def __init__(self, samples: Sequence[Sample], *, seed: int, samples_per_step: int) -> None:
        self._seed = seed
        self._samples_per_step = samples_per_step
        self._size = len(samples)
        by_media: dict[tuple[tuple[str, ...], ...], list[int]] = {}
        for index, sample in enumerate(samples):
            media = (sample.image, sample.video, sample.audio)
            # text-only samples share nothing
            by_media.setdefault(media if any(media) else ((sample.id,),), []).append(index)
        self._groups = list(by_media.values())
        self._epoch = -1
        self._epoch_order: list[int] = []

    def step(self, step: int) -> list[int]:
        """Indices of the samples of one step over all processes; steps count from 0."""
        epoch, offset = divmod(step * self._samples_per_step, self._size)
        indices: list[int] = []
        while len(indices) < self._samples_per_step:
            order = self._order_of(epoch)
            indices.extend(order[offset : offset + self._samples_per_step - len(indices)])
            epoch, offset = epoch + 1, 0
        return indices

    def _order_of(self, epoch: int) -> list[int]:
        if epoch != self._epoch:
            shuffled = np.random.default_rng([self._seed, epoch, 0x0DE5]).permutation(len(self._groups))
            self._epoch, self._epoch_order = epoch, [i for group in shuffled for i in self._groups[group]]
        return self._epoch_order
