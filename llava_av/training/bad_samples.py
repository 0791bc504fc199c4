"""Samples that training leaves out, because the model cannot take them or they fail to decode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import distributed

from llava_av.datasets.sample_columns import take
from llava_av.datasets.unfit import Unfit, log_unfit, require_few_unfit
from llava_av.media.clip import SampleSize
from llava_av.training.sample_sizes import SampleSizes

if TYPE_CHECKING:
    from llava_av.datasets.media_source import MediaSource
    from llava_av.datasets.schema import Sample
    from llava_av.model import LlavaAvProcessor
    from llava_av.recipe import Recipe
    from llava_av.runs import BadSamplesReport, Run

__all__ = ["BadSamples", "fit_samples"]


class BadSamples:
    """Samples left out so far, the same in all processes.

    Those that do not fit the model are found again at each start. Those that fail to decode in a step are
    kept with the run, because the steps before a checkpoint are not repeated.

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
        self._steps: dict[str, int] = {}
        self._is_saved = False

    @property
    def found(self) -> tuple[Unfit, ...]:
        """Return the samples left out so far."""
        return tuple(self._found.values())

    def add(self, own: Sequence[Unfit], step: int | None = None) -> None:
        """Add the samples that each process found; all processes call it together.

        Args:
            own: Samples that this process found.
            step: Step in which they failed to decode; None before the first step.

        Raises:
            UnfitSamplesError: The share of samples that are left out is larger than allowed.
        """
        self._add([(one, step) for one in own])

    def restore(self, run: Run, first_step: int) -> None:
        """Add the samples that failed to decode before training resumed; all processes call it together.

        Args:
            run: Run that is resumed.
            first_step: Step that training starts or resumes from.

        Raises:
            UnfitSamplesError: The share of samples that are left out is larger than allowed.
        """
        from llava_av.runs import BadSamplesReport

        saved = run.find(BadSamplesReport) if distributed.get_rank() == 0 else None
        self._is_saved = saved is not None
        self._add(
            [
                (Unfit(id=one.id, reason=one.reason), one.step)
                for one in (saved.samples if saved is not None else ())
                if one.step < first_step
            ]
        )

    def report(self) -> BadSamplesReport | None:
        """Return the samples that failed to decode in steps; None if the run has and needs no such object."""
        from llava_av.runs import BadSample, BadSamplesReport

        samples = tuple(
            BadSample(id=name, reason=self._found[name].reason, step=step)
            for name, step in self._steps.items()
        )
        self._is_saved = self._is_saved or bool(samples)
        return BadSamplesReport(samples=samples) if self._is_saved else None

    def _add(self, own: Sequence[tuple[Unfit, int | None]]) -> None:
        every: list[Sequence[tuple[Unfit, int | None]]] = [()] * distributed.get_world_size()
        distributed.all_gather_object(every, own)
        new = {one.id: (one, step) for part in every for one, step in part if one.id not in self._found}
        self._found |= {name: one for name, (one, _) in new.items()}
        self._steps |= {name: step for name, (_, step) in new.items() if step is not None}
        if distributed.get_rank() == 0:
            log_unfit(one for one, _ in new.values())
        require_few_unfit(self.found, self._samples, self._max_share, self._what)


def fit_samples(
    recipe: Recipe,
    media: MediaSource,
    samples: Sequence[Sample],
    processor: LlavaAvProcessor,
    *,
    max_share: float,
    what: str = "samples",
) -> tuple[Sequence[Sample], SampleSizes, BadSamples]:
    """Return the samples that the model can take, their sizes, and the others; all processes call this.

    Each process measures its share of the samples and all get the same result, so that the order of samples
    remains a function of seed, position, dataset and recipe.

    Args:
        recipe: The run's recipe.
        media: Media of the samples.
        samples: The whole train split, or the held-out samples of a measurement.
        processor: Processor of the model, which counts tokens.
        max_share: Largest allowed share of samples that do not fit; with 1, one that fits is enough.
        what: Name of the samples in messages.

    Raises:
        UnfitSamplesError: More samples are unfit than allowed, or all of them.
    """
    # Decoders are needed to measure only.
    from llava_av.datasets.measuring import measure_samples

    rank, processes = distributed.get_rank(), distributed.get_world_size()
    share = -(-len(samples) // processes)
    own = measure_samples(
        media,
        samples[rank * share : (rank + 1) * share],
        recipe.media,
        processor,
        row_tokens=recipe.training.pack_length,
        most=max_share * len(samples),
    )
    bad = BadSamples(len(samples), max_share, what)
    bad.add([one for one in own if isinstance(one, Unfit)])
    # No process has stopped early, as too many bad samples are an error.
    sizes = SampleSizes.of(one if isinstance(one, SampleSize) else None for one in own).gathered()
    return take(samples, np.flatnonzero(sizes.are_fit())), sizes, bad
