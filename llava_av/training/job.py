"""A training job: from the request in S3 to the last checkpoint and train.json in S3."""

import contextlib
import logging
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import distributed

from llava_av.checkpoints import CheckpointRef
from llava_av.datasets.loading import load_clip
from llava_av.datasets.unfit import Unfit
from llava_av.errors import UserError
from llava_av.model.parts import recompute_activations
from llava_av.model.sequence.packing import packed_attention
from llava_av.processes.heartbeat import Limits, beating
from llava_av.processes.termination import deferring_sigterm
from llava_av.provenance.environment import this_environment
from llava_av.runs import TrainedCheckpoint, TrainingResult, UnfitSample
from llava_av.tracking.exporter import TrainingMetrics
from llava_av.training.bad_samples import fit_samples
from llava_av.training.checkpointer import Checkpointer
from llava_av.training.engines import build_engine
from llava_av.training.finite_checks import NonFiniteError
from llava_av.training.job_context import JobContext, fetch_train_split, load_model, open_job
from llava_av.training.loader import EncodedCache, Loader
from llava_av.training.loop import run_steps
from llava_av.training.order import SampleOrder
from llava_av.training.phases import Phases
from llava_av.training.random_state import seed_generators
from llava_av.training.recording import count_start, track
from llava_av.training.sample_costs import sample_costs
from llava_av.training.trainer import Trainer

__all__ = ["train"]

_LOG = logging.getLogger(__name__)

_CACHE_BYTES = 2**30


def train(run: str, work: Path) -> None:
    """Train or resume one run; each process that torchrun started calls it.

    Args:
        run: Run ID; the request of the run holds recipe and dataset.
        work: Local folder for copies of the data and for checkpoints before their upload.

    Raises:
        UserError: Data, storage or engine cannot be used, or a value is not finite.
        TerminatedError: A process got SIGTERM; a checkpoint holds all steps.
    """
    started = time.monotonic()
    job = open_job(run, work)
    with beating(Limits.from_env(), partial(job.run.put_stacks, job.rank)) as heart:
        phases = Phases(heart)
        try:
            with count_start(job) as exported:
                _train(job, exported, phases, started)
        except NonFiniteError as error:
            if job.first:
                # The error matters more than that S3 accepts its report.
                with contextlib.suppress(UserError):
                    job.run.write(error.report)
            raise
        phases.finish()
        distributed.barrier()
    distributed.destroy_process_group()


def _train(job: JobContext, exported: TrainingMetrics, phases: Phases, started: float) -> None:
    recipe = job.recipe
    data, samples = fetch_train_split(job)
    model, processor = load_model(job, samples)
    samples, sizes, bad_samples = fit_samples(recipe, data, samples, processor)
    has_gpu = torch.cuda.is_available()
    device = torch.device("cuda", torch.cuda.current_device()) if has_gpu else torch.device("cpu")
    model.to(device).train()  # type: ignore[arg-type]
    if recipe.training.pack_length is not None:
        model.language_model.set_attn_implementation(
            packed_attention(model.language_model, device, recipe.training.precision)
        )
    recompute_activations(model, recipe.training.activation_checkpointing)
    # An engine may take the weights apart, so count them first.
    parameters = sum(parameter.numel() for parameter in model.parameters())
    costs = sample_costs(model, samples, sizes, recipe.training.activation_checkpointing)
    engine = build_engine(model, recipe)
    seed_generators(recipe.seed, job.rank)
    checkpointer = Checkpointer(job.run.store, job.run.id, recipe, engine, model, processor, job.folder)
    resumed = checkpointer.restore()
    if resumed:
        exported.resumed(resumed.step)
        if job.first:
            _LOG.info("training goes on from step %d, %s", resumed.step, resumed.uri)
    steps = range(resumed.step if resumed else 0, recipe.training.steps)
    load = partial(load_clip, data, media=recipe.media, resizing=processor.image_resizing())
    cache = EncodedCache(processor, load, max_bytes=_CACHE_BYTES)
    order = SampleOrder(samples, seed=recipe.seed, recipe=recipe.training)
    loader = Loader(
        samples, costs, processor, cache, order, recipe.training, rank=job.rank, processes=job.processes
    )
    with deferring_sigterm() as termination, track(job, steps.start) as tracked, checkpointer:
        trainer = Trainer(engine, model.config, recipe, samples, device, bad_samples, termination)
        batches = loader.batches(steps)
        try:
            reference = run_steps(job, trainer, batches, checkpointer, tracked, exported, phases, termination)
        finally:
            # A checkpoint may still be written.
            phases.save_checkpoint(recipe.training.steps)
    if job.first:
        result = _result(job, reference or resumed, resumed, bad_samples.found)
        about = {"parameters": parameters, "mlflow_run_id": tracked.mlflow_run_id}
        seconds = round(time.monotonic() - started, 3)
        # Last: a run with this object is trained.
        job.run.write(result.model_copy(update=about | {"seconds": seconds}))


def _result(
    job: JobContext, last: CheckpointRef | None, resumed: CheckpointRef | None, unfit: Sequence[Unfit]
) -> TrainingResult:
    assert last is not None, "a recipe has at least one step, and its last one has a checkpoint"
    training = job.recipe.training
    return TrainingResult(
        run=job.run.id,
        checkpoint=TrainedCheckpoint(uri=last.uri, digest=last.digest, step=last.step),
        steps=training.steps,
        resumed_from=resumed.step if resumed else None,
        engine=training.engine,
        processes=job.processes,
        environment=this_environment(),
        unfit=tuple(UnfitSample(id=one.id, reason=one.reason) for one in unfit),
        seconds=0.0,
    )
