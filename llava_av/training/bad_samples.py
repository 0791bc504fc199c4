"""Samples that training leaves out, because the model cannot take them or they fail to decode."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import distributed

from llava_av.datasets.unfit import Unfit, log_unfit, require_few_unfit

if TYPE_CHECKING:
    from llava_av.datasets.schema import Sample
    from llava_av.media.clip import SampleSize
    from llava_av.model import LlavaAvProcessor
    from llava_av.recipe import Recipe

__all__ = ["BadSamples", "fit_samples"]


class BadSamples:
    """Samples left out so far, the same in all processes.

    Args:
        samples: Number of samples of the train split.
        max_share: Largest allowed share of samples that are left out.
        what: Name of the samples in messages.
    """

    def __init__(self, samples: int, max_share: float, what: str = "samples") -> None:
        self._samples = samples
        self._max_share = max_share
        self._what = what
        self._found: dict[str, Unfit] = {}

    @property
    def found(self) -> tuple[Unfit, ...]:
        """Return the samples left out so far."""
        return tuple(self._found.values())

    def add(self, own: Sequence[Unfit]) -> None:
        """Add the samples that each process found; all processes call it together.

        Args:
            own: Samples that this process found.

        Raises:
            UnfitSamplesError: The share of samples that are left out is larger than allowed.
        """
        every: list[tuple[Unfit, ...]] = [()] * distributed.get_world_size()
        distributed.all_gather_object(every, tuple(own))
        new = {one.id: one for part in every for one in part if one.id not in self._found}
        self._found |= new
        if distributed.get_rank() == 0:
            log_unfit(new.values())
        require_few_unfit(self.found, self._samples, self._max_share, self._what)


def fit_samples(
    recipe: Recipe,
    data: Path,
    samples: Sequence[Sample],
    processor: LlavaAvProcessor,
    what: str = "samples",
) -> tuple[tuple[Sample, ...], tuple[SampleSize, ...], BadSamples]:
    """Return the samples that the model can take, their sizes, and the others; all processes call this.

    Each process measures its share of the samples and all get the same result, so that the order of samples
    remains a function of seed, position, dataset and recipe.

    Args:
        recipe: The run's recipe.
        data: Folder that media paths are relative to.
        samples: The whole train split, or the held-out samples of a measurement.
        processor: Processor of the model, which counts tokens.
        what: Name of the samples in messages.

    Raises:
        UnfitSamplesError: More samples are unfit than `data.max_bad_share` allows.
    """
    # Decoders are needed to measure only.
    from llava_av.datasets.measuring import measure_samples

    rank, processes = distributed.get_rank(), distributed.get_world_size()
    share = -(-len(samples) // processes)
    own = measure_samples(
        data,
        samples[rank * share : (rank + 1) * share],
        recipe.media,
        processor,
        row_tokens=recipe.training.pack_length,
        most=recipe.data.max_bad_share * len(samples),
    )
    bad = BadSamples(len(samples), recipe.data.max_bad_share, what)
    bad.add([one for one in own if isinstance(one, Unfit)])
    # No process has stopped early, as too many bad samples are an error.
    every: list[tuple[SampleSize | Unfit, ...]] = [()] * processes
    distributed.all_gather_object(every, own)
    measured = zip(samples, (one for part in every for one in part), strict=True)
    fit = [(sample, size) for sample, size in measured if isinstance(size, SampleSize)]
    return tuple(sample for sample, _ in fit), tuple(size for _, size in fit), bad
