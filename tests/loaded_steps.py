"""Batches and steps of training without a training job."""

from collections.abc import Sequence
from pathlib import Path

import torch

from llava_av.datasets.schema import Sample
from llava_av.model import LlavaAvForConditionalGeneration, LlavaAvProcessor
from llava_av.processes.termination import Termination
from llava_av.recipe import Recipe, TrainingRecipe
from llava_av.training.bad_samples import BadSamples
from llava_av.training.encoded_cache import EncodedCache
from llava_av.training.engines import Engine
from llava_av.training.loader import LoadedBatch, Loader
from llava_av.training.micro_batches import SampleCost
from llava_av.training.order import SampleOrder
from llava_av.training.profiling import StepProfiler
from llava_av.training.throughput import Throughput
from llava_av.training.trainer import EngineModel, StepObservers, Trainer


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


def new_trainer(
    engine: Engine,
    model: LlavaAvForConditionalGeneration,
    recipe: Recipe,
    samples: Sequence[Sample],
    bad: BadSamples,
) -> Trainer:
    """Return a trainer on the CPU that no signal ends and nothing profiles."""
    observers = StepObservers(
        bad_samples=bad,
        termination=Termination(),
        throughput=Throughput(None, {}, "fp32", 1),
        profiler=StepProfiler(0, Path(), lambda file: None),
    )
    trained = EngineModel(engine=engine, config=model.config, device=torch.device("cpu"))
    return Trainer(trained, recipe, samples, observers)
