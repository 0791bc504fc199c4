"""A training job: from the request in S3 to the last checkpoint and train.json in S3."""

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import distributed

from llava_av.checkpoints import CheckpointRef, base_folder, fetch_base
from llava_av.datasets.checkout import checkout, read_split
from llava_av.datasets.commits import read_commit
from llava_av.datasets.loading import load_clip
from llava_av.datasets.schema import Sample
from llava_av.datasets.unfit import Unfit
from llava_av.errors import UserError
from llava_av.model import LlavaAvForConditionalGeneration, LlavaAvProcessor, base_model, fresh_model
from llava_av.model.sequence.packing import packed_attention
from llava_av.processes.heartbeat import Limits, beating
from llava_av.provenance.environment import this_environment
from llava_av.provenance.source_code import require_code
from llava_av.recipe import Recipe
from llava_av.runs import (
    Run,
    RunRequest,
    Starts,
    TrainedCheckpoint,
    TrainingResult,
    UnfitSample,
)
from llava_av.runs.names import METRICS
from llava_av.storage import ObjectMissing, ObjectStore
from llava_av.tracking.exporter import TrainingMetrics, serve_metrics
from llava_av.tracking.journal import Journal
from llava_av.training.checkpointer import Checkpointer, continues_by_part
from llava_av.training.engines import build_engine, start_processes
from llava_av.training.guard import NonFiniteError
from llava_av.training.loader import EncodedCache, LoadedBatch, batches
from llava_av.training.loop import Trainer
from llava_av.training.order import SampleOrder
from llava_av.training.phases import Phases
from llava_av.training.random_state import seed_generators
from llava_av.training.unfit_samples import fit_samples

if TYPE_CHECKING:
    from llava_av.tracking.mlflow_run import MlflowFollower

__all__ = ["train"]

_LOG = logging.getLogger(__name__)

_CACHE_BYTES = 2**30


@dataclass(frozen=True, kw_only=True)
class _Job:
    """Run of a job, and the rank of this process in the group."""

    run: Run
    request: RunRequest
    work: Path
    rank: int
    processes: int

    @property
    def recipe(self) -> Recipe:
        """Return the recipe of the run."""
        return self.request.recipe

    @property
    def folder(self) -> Path:
        """Return this run's own local folder."""
        return self.work / self.run.id

    @property
    def first(self) -> bool:
        """Return whether this process acts for all processes."""
        return self.rank == 0


def train(run: str, work: Path) -> None:
    """Train or resume one run; each process that torchrun started calls it.

    Args:
        run: Run ID; the request of the run holds recipe and dataset.
        work: Local folder for copies of the data and for checkpoints before their upload.

    Raises:
        UserError: Data, storage or engine cannot be used, or a value is not finite.
    """
    started = time.monotonic()
    job = _open(run, work)
    with beating(Limits.from_env()) as heart:
        phases = Phases(heart)
        try:
            with _watched(job) as watched:
                _train(job, watched, phases, started)
        except NonFiniteError as error:
            if job.first:
                # The error matters more than that S3 accepts its report.
                with contextlib.suppress(UserError):
                    job.run.write(error.report)
            raise
        phases.finish()
        distributed.barrier()
    distributed.destroy_process_group()


def _train(job: _Job, watched: TrainingMetrics, phases: Phases, started: float) -> None:
    recipe = job.recipe
    data, samples = _dataset(job)
    model, processor = _model(job, samples)
    samples, unfit = fit_samples(recipe, data, samples, processor)
    device = torch.device("cuda", torch.cuda.current_device()) if _has_gpu() else torch.device("cpu")
    model.to(device).train()  # type: ignore[arg-type]
    if recipe.training.pack_length is not None:
        model.language_model.set_attn_implementation(packed_attention(model.language_model, device))
    # An engine may take the weights apart, so count them first.
    parameters = sum(parameter.numel() for parameter in model.parameters())
    by_part = continues_by_part(job.run.store, job.run.id)
    engine = build_engine(model, recipe, by_part=by_part)
    seed_generators(recipe.seed, job.rank)
    checkpointer = Checkpointer(
        job.run.store, job.run.id, recipe, engine, model, processor, job.folder, by_part=by_part
    )
    resumed = checkpointer.restore()
    if resumed:
        watched.resumed(resumed.step)
        if job.first:
            _LOG.info("training goes on from step %d, %s", resumed.step, resumed.uri)
    steps = range(resumed.step if resumed else 0, recipe.training.steps)
    load = partial(load_clip, data, media=recipe.media, resizing=processor.image_resizing())
    cache = EncodedCache(processor, load, max_bytes=_CACHE_BYTES)
    order = SampleOrder(samples, seed=recipe.seed, recipe=recipe.training)
    loaded = batches(
        samples,
        processor,
        cache,
        order,
        steps=steps,
        rank=job.rank,
        processes=job.processes,
        pack_length=recipe.training.pack_length,
    )
    with _tracked(job, steps.start) as tracked:
        trainer = Trainer(engine, model.config, recipe, samples, device)
        reference = _run(job, trainer, loaded, checkpointer, tracked, watched, phases)
    if job.first:
        result = _result(job, reference or resumed, resumed, unfit)
        about = {"parameters": parameters, "mlflow_run_id": tracked.mlflow_run_id}
        seconds = round(time.monotonic() - started, 3)
        # Last: a run with this object is trained.
        job.run.write(result.model_copy(update=about | {"seconds": seconds}))


def _open(run: str, work: Path) -> _Job:
    opened = Run(store=ObjectStore.from_env(), id=run)
    request = opened.request()
    require_code(opened.code().digest)
    rank, processes = start_processes(request.recipe.training.engine)
    return _Job(run=opened, request=request, work=work, rank=rank, processes=processes)


def _model(
    job: _Job, samples: tuple[Sample, ...]
) -> tuple[LlavaAvForConditionalGeneration, LlavaAvProcessor]:
    """Return the base model, which one process of each node fetches, or a fresh model."""
    recipe = job.recipe
    base, digest = recipe.model.base, recipe.model.base_digest
    if base is None or digest is None:
        return fresh_model(recipe, _texts(samples))
    if os.environ.get("LOCAL_RANK", "0") == "0":
        fetch_base(base, digest, job.work)
    distributed.barrier()
    return base_model(recipe, base_folder(base, digest, job.work))


def _has_gpu() -> bool:
    return torch.cuda.is_available()


def _run(
    job: _Job,
    trainer: Trainer,
    loaded: Iterator[LoadedBatch],
    checkpointer: Checkpointer,
    tracked: "_Tracked",
    watched: TrainingMetrics,
    phases: Phases,
) -> CheckpointRef | None:
    """Take all remaining steps; return the last checkpoint written, or None if no step remained."""
    reference, pruned = None, True
    for batch in loaded:
        phases.take_step(batch.step)
        metrics = trainer.step(batch)
        if not pruned:
            checkpointer.prune()
            pruned = True
        if job.first:
            tracked.journal.append({"step": batch.step} | metrics)
            watched.stepped(batch.step, metrics)
        if _is_checkpoint(batch.step + 1, job.recipe):
            phases.save_checkpoint(batch.step + 1)
            if job.first:
                job.run.put_metrics(tracked.journal.path.read_bytes())
            trainer.require_finite_state(batch)
            reference, pruned = checkpointer.save(batch.step + 1), False
            watched.saved(reference.step)
        phases.wait_for_batch(batch.step + 1)
    if not pruned:
        checkpointer.prune()
    return reference


@contextlib.contextmanager
def _watched(job: _Job) -> Iterator[TrainingMetrics]:
    """Count this start of the run, and serve metrics to Prometheus from rank zero until the block ends."""
    if not job.first:
        yield TrainingMetrics(job.request)
        return
    found = job.run.find(Starts)
    before = found.starts if found is not None else 0
    job.run.write(Starts(starts=before + 1))
    metrics = TrainingMetrics(job.request, restarts=before)
    with serve_metrics(metrics):
        yield metrics


@dataclass
class _Tracked:
    journal: Journal
    mlflow_run_id: str | None = None


@contextlib.contextmanager
def _tracked(job: _Job, first_step: int) -> Iterator[_Tracked]:
    """Keep the run's journal; rank zero mirrors it to MLflow until the block ends or raises."""
    tracked = _Tracked(journal=_journal(job, first_step))
    follower = _follower(job, tracked.journal) if job.first else None
    failed = True
    try:
        yield tracked
        failed = False
    finally:
        if follower is not None:
            tracked.mlflow_run_id = follower.finish(failed=failed)


def _follower(job: _Job, journal: Journal) -> "MlflowFollower":
    # Only rank zero spends the second of CPU time that this import takes.
    from llava_av.tracking.mlflow_run import MlflowFollower

    return MlflowFollower(job.request, journal)


def _dataset(job: _Job) -> tuple[Path, tuple[Sample, ...]]:
    """Return a verified local copy of the train split, which one process of each node makes."""
    store, named = job.run.store, job.request.dataset
    commit = read_commit(store, named.name, named.commit)
    data = checkout(store, commit, job.work / "data" / commit.id[:16])
    return data, read_split(data, "train")


def _texts(samples: tuple[Sample, ...]) -> Iterator[str]:
    return (turn.value for sample in samples for turn in sample.conversations)


def _is_checkpoint(done: int, recipe: Recipe) -> bool:
    return done % recipe.training.checkpoint_interval == 0 or done == recipe.training.steps


def _journal(job: _Job, first_step: int) -> Journal:
    """Return the run's journal up to the step that training resumes from."""
    job.folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(job.folder / METRICS)
    if job.first:
        journal.path.unlink(missing_ok=True)
        if first_step:
            # Training can resume from the checkpoint even if the earlier metrics are lost.
            with contextlib.suppress(ObjectMissing):
                journal.path.write_bytes(job.run.metrics_bytes())
        journal.keep_until(first_step)
    return journal


def _result(
    job: _Job, last: CheckpointRef | None, resumed: CheckpointRef | None, unfit: Sequence[Unfit]
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
