"""Samples of several dataset commits as one list.

IDs and media paths get the name or folder of their dataset as a prefix, so that neither can collide. A
training sample is left out if another dataset of the mix holds out a media file with the same content, so
that no held-out clip is trained on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llava_av.datasets.manifest import safe_path
from llava_av.datasets.sample_columns import MediaGroups, columns_of, take
from llava_av.datasets.schema import Sample
from llava_av.datasets.sources.rows import DatasetError

__all__ = ["DatasetSplits", "cap_samples", "join"]


@dataclass(frozen=True, kw_only=True)
class DatasetSplits:
    """Samples of one commit."""

    name: str
    """Name of the dataset."""
    folder: str
    """Folder that precedes its media paths in a run of several datasets."""
    digests: Mapping[str, str]
    """Digest of each media file by its path; empty for the only dataset of a run."""
    train: Sequence[Sample]
    held_out: Sequence[Sample]


def join(datasets: Sequence[DatasetSplits]) -> tuple[tuple[Sample, ...], tuple[Sample, ...], dict[str, int]]:
    """Join the samples of several datasets, in the order of the datasets.

    Returns:
        Training samples, held-out samples, and the number of training samples left out by dataset.

    Raises:
        DatasetError: No training sample of a dataset is left.
    """
    held_out = {one.name: _digests(one, one.held_out) for one in datasets}
    train: list[Sample] = []
    left_out = {}
    for one in datasets:
        others = set().union(*(held for name, held in held_out.items() if name != one.name))
        kept = [sample for sample in one.train if not others & _digests(one, [sample])]
        if not kept:
            raise DatasetError(
                f"dataset {one.name}: other datasets of the run hold out the media of all its training "
                "samples: train on fewer datasets"
            )
        left_out[one.name] = len(one.train) - len(kept)
        train += _prefixed(one, kept)
    return tuple(train), tuple(each for one in datasets for each in _prefixed(one, one.held_out)), left_out


def cap_samples(samples: Sequence[Sample], most: int | None, seed: int) -> Sequence[Sample]:
    """Return at most `most` samples in their order; samples about the same media are drawn together.

    Args:
        samples: Samples of one dataset.
        most: Maximum number; None for all.
        seed: Seed of the draw.
    """
    if most is None or len(samples) <= most:
        return samples
    groups = MediaGroups.of(np.arange(len(samples)), columns_of(samples).media)
    drawn = groups.joined(np.random.default_rng([seed, 0xCA9]).permutation(len(groups)))
    return take(samples, np.sort(drawn[:most]))


def _digests(dataset: DatasetSplits, samples: Sequence[Sample]) -> set[str]:
    known = dataset.digests
    paths = (safe_path(path) for sample in samples for path in sample.media)
    return {known[path] for path in paths if path in known}


def _prefixed(dataset: DatasetSplits, samples: Sequence[Sample]) -> list[Sample]:
    def inside(paths: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f"{dataset.folder}/{path}" for path in paths)

    return [
        sample.model_copy(
            update={
                "id": f"{dataset.name}/{sample.id}",
                "image": inside(sample.image),
                "video": inside(sample.video),
                "audio": inside(sample.audio),
                "dataset": dataset.name,
            }
        )
        for sample in samples
    ]
