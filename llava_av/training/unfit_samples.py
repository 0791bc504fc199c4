"""Search for samples of the train split that the model cannot take, by all processes together."""

from collections.abc import Sequence
from pathlib import Path

from torch import distributed

from llava_av.datasets.schema import Sample
from llava_av.datasets.unfit import Unfit, find_unfit, without_unfit
from llava_av.model import LlavaAvProcessor
from llava_av.recipe import Recipe

__all__ = ["fit_samples"]


def fit_samples(
    recipe: Recipe, data: Path, samples: Sequence[Sample], processor: LlavaAvProcessor
) -> tuple[tuple[Sample, ...], tuple[Unfit, ...]]:
    """Return the samples that the model can take, and the others; all processes call it together.

    Each process checks its share of the samples and all get the same result, so that the order of samples
    remains a function of seed, position, dataset and recipe.

    Args:
        recipe: The run's recipe.
        data: Folder that media paths are relative to.
        samples: The whole train split.
        processor: Processor of the model, which counts tokens.

    Raises:
        UnfitSamplesError: More samples are unfit than `data.max_bad_share` allows.
    """
    rank, processes = distributed.get_rank(), distributed.get_world_size()
    share = -(-len(samples) // processes)
    own = find_unfit(
        data,
        samples[rank * share : (rank + 1) * share],
        recipe.media,
        processor,
        row_tokens=recipe.training.pack_length,
        most=recipe.data.max_bad_share * len(samples),
    )
    found: list[tuple[Unfit, ...]] = [()] * processes
    distributed.all_gather_object(found, own)
    unfit = tuple(one for part in found for one in part)
    return without_unfit(samples, unfit, recipe.data.max_bad_share, report=rank == 0), unfit
