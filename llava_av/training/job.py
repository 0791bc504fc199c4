"""A training job: from the request in S3 to the last checkpoint and train.json in S3."""

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import distributed

from llava_av.checkpoints import CheckpointRef
from llava_av.datasets.loading import load_clip
from llava_av.datasets.schema import Sample
from llava_av.datasets.unfit import Unfit
from llava_av.errors import UserError
from llava_av.model import LlavaAvForConditionalGeneration
from llava_av.model.parts import recompute_activations
from llava_av.model.sequence.packing import packed_attention
from llava_av.plurals import listed
from llava_av.processes.heartbeat import Limits, beating
from llava_av.processes.termination import deferring_sigterm
from llava_av.provenance.environment import this_environment
from llava_av.recipe import TrainingRecipe
from llava_av.runs import TrainedCheckpoint, TrainingResult, UnfitSample
from llava_av.tracking.prometheus import TrainingMetrics
from llava_av.training.bad_samples import fit_samples
from llava_av.training.checkpointer import Checkpointer
from llava_av.training.engines import build_engine, move_to
from llava_av.training.finite_checks import NonFiniteError
from llava_av.training.job_context import JobContext, fetch_data, load_model, open_job
from llava_av.training.loader import EncodedCache, Loader
from llava_av.training.loop import run_steps
from llava_av.training.mix import MixReport, mix_weights
from llava_av.training.model_flops import count_flops, trained_shares
from llava_av.training.order import SampleOrder, absent_warmup_kinds, undrawn_datasets
from llava_av.training.phases import Phases
from llava_av.training.profiling import StepProfiler
from llava_av.training.random_state import seed_generators
from llava_av.training.recording import count_start, track
from llava_av.training.sample_costs import sample_costs
from llava_av.training.selection import HeldOut, HeldOutLosses, best_checkpoint, read_losses
from llava_av.training.throughput import Throughput
from llava_av.training.trainer import Trainer
from llava_av.training.validation import build_validator

__all__ = ["train"]

_LOG = logging.getLogger(__name__)

_CACHE_BYTES = 2**30
_MAX_NAMED = 20


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
            if job.is_rank_zero:
                # A failed upload of the report must not hide the error.
                with contextlib.suppress(UserError):
                    job.run.write(error.report)
            raise
        phases.finish()
        distributed.barrier()
    distributed.destroy_process_group()


def _train(job: JobContext, exported: TrainingMetrics, phases: Phases, started: float) -> None:
    recipe = job.recipe
    data = fetch_data(job)
    model, processor = load_model(job, data.train)
    samples, sizes, bad_samples = fit_samples(
        recipe, data.root, data.train, processor, max_share=recipe.data.max_bad_share
    )
    device = _prepare(model, recipe.training)
    # Counted first, because an engine may shard the weights.
    parameters = sum(parameter.numel() for parameter in model.parameters())
    flops, trained = count_flops(model.config), trained_shares(model)
    recomputed = recipe.training.activation_checkpointing
    costs = sample_costs(flops, samples, sizes, trained=trained, recomputed=recomputed)
    throughput = Throughput(flops, trained, recipe.training.precision, job.processes)
    engine = build_engine(model, recipe)
    seed_generators(recipe.seed, job.rank)
    checkpointer = Checkpointer(job.run.store, job.run.id, recipe, engine, model, processor, job.folder)
    resumed = _restored(checkpointer, job, exported)
    steps = range(resumed.step if resumed else 0, recipe.training.steps)
    load = partial(load_clip, data.root, media=recipe.media, resizing=processor.image_resizing())
    cache = EncodedCache(processor, load, max_bytes=_CACHE_BYTES)
    weights = mix_weights(recipe, samples)
    new_order = partial(SampleOrder, samples, seed=recipe.seed, recipe=recipe.training, weights=weights)
    if job.is_rank_zero:
        _warn_of_undrawn(samples, recipe.training, weights)
    loader = Loader(
        samples, costs, processor, cache, new_order(), recipe.training, rank=job.rank, processes=job.processes
    )
    validator = build_validator(job, engine, processor, data, device)

    def samples_of(step: int) -> list[str]:
        # A new order each time, since the loader's thread uses its own.
        return [samples[index].id for index in new_order().step(step)]

    profiler = StepProfiler.from_env(
        job.folder / "profile", job.run.put_profile, is_rank_zero=job.is_rank_zero
    )
    tracking = track(job, steps.start, samples_of, exported, bad_samples)
    with deferring_sigterm() as termination, tracking as tracked, checkpointer:
        losses = read_losses(recipe.training, tracked.journal.rows())
        held_out = HeldOut(validator=validator, losses=losses)
        mix = MixReport(recipe, samples, data.left_out)
        trainer = Trainer(
            engine, model.config, recipe, samples, device, bad_samples, termination, throughput, profiler
        )
        batches = loader.batches(steps)
        try:
            last = run_steps(job, trainer, batches, checkpointer, tracked, phases, held_out, mix)
        finally:
            # A checkpoint may still be written.
            phases.save_checkpoint(recipe.training.steps)
    if job.is_rank_zero:
        result = _result(job, last or resumed, resumed, losses, bad_samples.found)
        about = {
            "parameters": parameters,
            "mlflow_run_id": tracked.mlflow_run_id,
            "mix": mix.shares(tracked.journal.rows()),
        }
        seconds = round(time.monotonic() - started, 3)
        # Written last: a run with this object counts as trained.
        job.run.write(result.model_copy(update=about | {"seconds": seconds}))


def _prepare(model: LlavaAvForConditionalGeneration, training: TrainingRecipe) -> torch.device:
    """Prepare a model for training, and return its device."""
    has_gpu = torch.cuda.is_available()
    device = torch.device("cuda", torch.cuda.current_device()) if has_gpu else torch.device("cpu")
    move_to(model.train(), device)
    if training.pack_length is not None:
        model.language_model.set_attn_implementation(
            packed_attention(model.language_model, device, training.precision)
        )
    recompute_activations(model, training.activation_checkpointing)
    return device


def _restored(checkpointer: Checkpointer, job: JobContext, exported: TrainingMetrics) -> CheckpointRef | None:
    """Return the checkpoint that training resumes from, if there is one."""
    resumed = checkpointer.restore()
    if resumed:
        exported.resumed(resumed.step)
        if job.is_rank_zero:
            _LOG.info("training resumes from step %d, %s", resumed.step, resumed.uri)
    return resumed


def _warn_of_undrawn(
    samples: Sequence[Sample], training: TrainingRecipe, weights: Mapping[str, float]
) -> None:
    """Warn of kinds and datasets that the recipe names and that no sample is drawn from."""
    if absent := absent_warmup_kinds(samples, training):
        kinds = sorted({sample.kind for sample in samples})
        _LOG.warning(
            "training.warmup_kinds: no sample has the kind %s: the first steps draw from the other kinds; "
            "the samples' kinds are %s",
            ", ".join(absent),
            listed(kinds, _MAX_NAMED),
        )
    if undrawn := undrawn_datasets(samples, weights):
        _LOG.warning(
            "data.mix: the weight of %s gives none of the %d samples of an epoch, so it is not trained on: "
            "raise the weight, or remove the dataset",
            ", ".join(undrawn),
            len(samples),
        )


def _result(
    job: JobContext,
    last: CheckpointRef | None,
    resumed: CheckpointRef | None,
    losses: HeldOutLosses,
    unfit: Sequence[Unfit],
) -> TrainingResult:
    assert last is not None, "a recipe has at least one step, and its last one has a checkpoint"
    training = job.recipe.training
    best = best_checkpoint(job.run, losses)
    chosen = best if best is not None and training.result_checkpoint == "best" else last
    return TrainingResult(
        run=job.run.id,
        checkpoint=TrainedCheckpoint(uri=chosen.uri, digest=chosen.digest, step=chosen.step),
        best=best,
        steps=last.step,
        resumed_from=resumed.step if resumed else None,
        engine=training.engine,
        processes=job.processes,
        environment=this_environment(),
        unfit=tuple(UnfitSample(id=one.id, reason=one.reason) for one in unfit),
        seconds=0.0,
    )
