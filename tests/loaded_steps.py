"""Batches of training, loaded without a training job."""

from collections.abc import Sequence

from llava_av.datasets.schema import Sample
from llava_av.model import LlavaAvProcessor
from llava_av.recipe import TrainingRecipe
from llava_av.training.loader import EncodedCache, LoadedBatch, Loader
from llava_av.training.micro_batches import SampleCost
from llava_av.training.order import SampleOrder


def load_step(
    samples: Sequence[Sample],
    processor: LlavaAvProcessor,
    cache: EncodedCache,
    *,
    rank: int = 0,
    processes: int = 1,
    costs: Sequence[SampleCost] | None = None,
    **training: object,
) -> LoadedBatch:
    """Return a process's batch of the first step, which has all samples; they cost the same by default."""
    recipe = TrainingRecipe.model_validate(
        {"steps": 1, "global_batch_size": len(samples), "num_processes": 1, **training}
    )
    if costs is None:
        costs = [SampleCost(tokens=1, language=1.0, towers=0.0, media=one.media_key) for one in samples]
    order = SampleOrder(samples, seed=0, recipe=recipe)
    loader = Loader(samples, costs, processor, cache, order, recipe, rank=rank, processes=processes)
    return loader.load(0)
