"""The order of samples: a function of seed, position and dataset, never of the number of processes."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from llava_av.datasets.schema import Sample

__all__ = ["step_indices"]


def step_indices(seed: int, step: int, samples_per_step: int, samples: Sequence[Sample]) -> list[int]:
    """Indices of the samples of one optimizer step, over all processes.

    Samples that ask about the same media stay together, so that a clip is decoded once and goes through the
    towers once a step. Epochs follow each other without a gap: a step may end one epoch and begin the next;
    each epoch has its own permutation and each sample comes once an epoch.

    Args:
        seed: the recipe's seed.
        step: optimizer step, from 0.
        samples_per_step: samples of one step.
        samples: the whole split.
    """
    epoch, offset = divmod(step * samples_per_step, len(samples))
    groups = _groups(tuple(samples))
    indices: list[int] = []
    while len(indices) < samples_per_step:
        order = _epoch_order(seed, epoch, groups)
        indices.extend(order[offset : offset + samples_per_step - len(indices)])
        epoch, offset = epoch + 1, 0
    return indices


@lru_cache(maxsize=2)
def _groups(samples: tuple[Sample, ...]) -> tuple[tuple[int, ...], ...]:
    by_media: dict[tuple[tuple[str, ...], ...], list[int]] = {}
    for index, sample in enumerate(samples):
        media = (sample.image, sample.video, sample.audio)
        # text-only samples share nothing
        by_media.setdefault(media if any(media) else ((sample.id,),), []).append(index)
    return tuple(tuple(group) for group in by_media.values())


@lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, groups: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    shuffled = np.random.default_rng([seed, epoch, 0x0DE5]).permutation(len(groups))
    return tuple(index for group in shuffled for index in groups[group])
