"""Costs of the samples of a step, measured when the step is planned.

Measuring all samples of a large dataset before the first step would take longer than its first epoch. Each
process measures its share of a step, and all get the same costs, so that they compute the same plan and leave
out the same samples. The order then covers all samples of the dataset.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import distributed

from llava_av.datasets.unfit import Unfit
from llava_av.media.clip import SampleSize
from llava_av.training.collective import CpuGroup
from llava_av.training.row_filling import SampleCost
from llava_av.training.sample_costs import CostEstimate

if TYPE_CHECKING:
    from llava_av.datasets.schema import Sample

__all__ = ["StepMeter"]


class StepMeter:
    """Meter of the samples of steps; all processes call each method together, always from the same thread.

    Args:
        samples: All training samples.
        measure: Returns the size of each of some samples, or why the model cannot take it.
        estimate: Estimates the cost of a sample from its size.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        measure: Callable[[Sequence[Sample]], Sequence[SampleSize | Unfit]],
        estimate: CostEstimate,
    ) -> None:
        self._samples, self._measure, self._estimate = samples, measure, estimate
        self._group = CpuGroup()

    def costs(self, indices: Sequence[int]) -> list[SampleCost | Unfit]:
        """Return the cost of each sample of a step, or why the model cannot take it."""
        rank, processes = distributed.get_rank(), distributed.get_world_size()
        own = [self._samples[index] for index in indices[rank::processes]]
        measured = zip(own, self._measure(own), strict=True)
        costs = [
            one if isinstance(one, Unfit) else self._estimate.of(sample, one) for sample, one in measured
        ]
        found: list[SampleCost | Unfit] = [Unfit(id="", reason="")] * len(indices)
        for number, part in enumerate(self._group.gather(costs)):
            found[number::processes] = part
        return found

    def close(self) -> None:
        """Release the process group; no call follows."""
        self._group.close()
