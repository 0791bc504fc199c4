"""Samples of the stages of a job that the model can take."""

from collections.abc import Iterable, Sequence
from functools import cached_property

from llava_av.datasets.media_source import MediaSource
from llava_av.datasets.schema import Sample
from llava_av.media.clip import SampleSize
from llava_av.model import LlavaAvProcessor
from llava_av.training.bad_samples import BadSamples, fit_samples
from llava_av.training.job_context import Datasets, JobContext
from llava_av.training.sample_sizes import SampleSizes

__all__ = ["MEASURED_AT_ONCE", "FitSamples"]

MEASURED_AT_ONCE = 2**16
"""Number of samples up to which all are measured before the first step."""


class FitSamples:
    """Samples of all stages that the model can take; all processes call the methods together.

    Up to `MEASURED_AT_ONCE` samples are measured before the first step; in a larger dataset, each step
    measures its own.

    Args:
        job: The job.
        datasets: All samples of the run's datasets.
        media: Their media.
    """

    def __init__(self, job: JobContext, datasets: Datasets, media: MediaSource) -> None:
        self._recipe = job.request.recipe
        self._datasets = datasets
        self._media = media
        self._fit: Sequence[Sample] = ()
        self._sizes: SampleSizes | None = None
        self._bad: BadSamples | None = None

    def select(
        self, samples: Sequence[Sample], processor: LlavaAvProcessor
    ) -> tuple[Sequence[Sample], Iterable[SampleSize] | None]:
        """Return the samples of a stage that the model can take, and their sizes.

        For a larger dataset, return all samples and None.

        Raises:
            UnfitSamplesError: More samples of all stages are unfit than `data.max_bad_share` allows.
        """
        most = max(map(len, self._by_stage))
        if most > MEASURED_AT_ONCE:
            self._bad = self._bad or BadSamples(most, self._recipe.data.max_bad_share)
            return samples, None
        if self._sizes is None:
            self._sizes = self._measure(processor)
        if len(self._by_stage) == 1:
            return self._fit, self._sizes
        chosen = {sample.id for sample in samples}
        sizes = zip(self._fit, self._sizes, strict=True)
        by_id = {sample.id: size for sample, size in sizes if sample.id in chosen}
        fit = tuple(sample for sample in samples if sample.id in by_id)
        return fit, [by_id[sample.id] for sample in fit]

    @property
    def bad(self) -> BadSamples:
        """Return the samples of all stages that are left out, after the first `select`."""
        assert self._bad is not None, "the samples of a stage have been selected"
        return self._bad

    @cached_property
    def _by_stage(self) -> list[Sequence[Sample]]:
        recipe = self._recipe
        return [self._datasets.select(recipe.of_stage(span.index)).train for span in recipe.schedule.spans]

    def _measure(self, processor: LlavaAvProcessor) -> SampleSizes:
        recipe, every = self._recipe, self._by_stage[0]
        if len(self._by_stage) > 1:
            every = tuple({sample.id: sample for one in self._by_stage for sample in one}.values())
        share = recipe.data.max_bad_share
        self._fit, sizes, self._bad = fit_samples(recipe, self._media, every, processor, max_share=share)
        return sizes
