"""A training job: from the request in S3 to the last checkpoint and train.json in S3."""

import contextlib
import logging
import time
from functools import partial
from pathlib import Path

from torch import distributed

from llava_av.errors import UserError
from llava_av.processes.heartbeat import Limits, beating
from llava_av.provenance.environment import this_environment
from llava_av.runs import StageResults, TrainedStage, TrainingResult, UnfitSample
from llava_av.tracking.prometheus import TrainingMetrics
from llava_av.training.finite_checks import NonFiniteError
from llava_av.training.job_context import JobContext, open_job, read_datasets
from llava_av.training.job_media import streamed_media
from llava_av.training.loop import end_terminated
from llava_av.training.phases import Phases
from llava_av.training.profiling import StepProfiler
from llava_av.training.recording import count_start
from llava_av.training.stage_progress import finished_stages, indices_to_train
from llava_av.training.stage_samples import FitSamples
from llava_av.training.stage_training import SharedByStages, StageEnd, train_stage

__all__ = ["train"]

_LOG = logging.getLogger(__name__)


def train(run: str, work: Path, stage: str = "") -> None:
    """Train or resume one run; each process that torchrun started calls it.

    Args:
        run: Run ID; the request of the run holds recipe and dataset.
        work: Local folder for copies of the data and for checkpoints before their upload.
        stage: Name of the only stage to train; empty for all that are not finished.

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
                _train(job, exported, phases, started, stage)
        except NonFiniteError as error:
            if job.is_rank_zero:
                # A failed upload of the report must not hide the error.
                with contextlib.suppress(UserError):
                    job.run.write(error.report)
            raise
        phases.finish()
        distributed.barrier()
    distributed.destroy_process_group()


def _train(job: JobContext, exported: TrainingMetrics, phases: Phases, started: float, only: str) -> None:
    whole = job.request.recipe
    finished = _agreed(job, finished_stages(job.run) if job.is_rank_zero else ())
    todo = indices_to_train(whole, finished, only)
    if not todo:
        index = whole.schedule.named(only).index
        _LOG.info("stage %s is already trained: %s", only, finished[index].checkpoint.uri)
        return
    job.report_phase("reading the samples")
    datasets = read_datasets(job)
    with contextlib.ExitStack() as block:
        media = block.enter_context(streamed_media(job, datasets))
        shared = SharedByStages(
            datasets=datasets,
            media=media,
            fit=FitSamples(job, datasets, media),
            exported=exported,
            phases=phases,
            profiler=StepProfiler.from_env(
                job.folder / "profile", job.run.put_profile, is_rank_zero=job.is_rank_zero
            ),
            block=block,
            resumed_from=finished[-1].checkpoint.step if finished else None,
        )
        for index in todo:
            staged = job.at_stage(index, finished)
            ended = train_stage(staged, shared, more=index + 1 in todo)
            if whole.stages:
                finished = _agreed(job, (*finished, ended.trained(staged)) if job.is_rank_zero else ())
            if index + 1 < len(whole.stages) and job.is_rank_zero:
                job.run.write(StageResults(stages=finished))
            if ended.terminated:
                end_terminated(job, ended.last)
    if todo.stop == len(whole.schedule.spans) and job.is_rank_zero:
        result = _result(job, shared, ended, finished)
        seconds = round(time.monotonic() - started, 3)
        # Written last: a run with this object counts as trained.
        job.run.write(result.model_copy(update={"seconds": seconds}))


def _agreed(job: JobContext, finished: tuple[TrainedStage, ...]) -> tuple[TrainedStage, ...]:
    """Return rank zero's finished stages."""
    if not job.request.recipe.stages:
        return ()
    shared: list[tuple[TrainedStage, ...]] = [finished]
    distributed.broadcast_object_list(shared, src=0)
    return shared[0]


def _result(
    job: JobContext, shared: SharedByStages, ended: StageEnd, stages: tuple[TrainedStage, ...]
) -> TrainingResult:
    assert shared.tracked is not None, "a stage has been trained"
    return TrainingResult(
        run=job.run.id,
        checkpoint=ended.result,
        best=ended.best,
        steps=sum(stage.steps for stage in stages) if stages else ended.last.step,
        resumed_from=shared.resumed_from,
        engine=job.request.recipe.training.engine,
        processes=job.processes,
        environment=this_environment(),
        parameters=ended.parameters,
        unfit=tuple(UnfitSample(id=one.id, reason=one.reason) for one in shared.fit.bad.found),
        mix=ended.mix,
        stages=stages,
        seconds=0.0,
        mlflow_run_id=shared.tracked.mlflow_run_id,
    )
