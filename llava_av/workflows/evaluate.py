"""Evaluation of a run's checkpoint on the held-out split, with and without each modality."""

import logging

from llava_av.evaluation.job_request import work_of_run
from llava_av.plurals import count_of
from llava_av.processes import report_progress
from llava_av.runs import EvaluationResult, GateDecision, Run, RunRequest, Scores, TrainingResult
from llava_av.storage import ObjectStore
from llava_av.tracking.mlflow_run import log_metrics
from llava_av.vocabulary import HELD_OUT_TASK
from llava_av.workflows.evaluated_run import read_evaluated_run
from llava_av.workflows.run_outcomes import settle_again
from llava_av.workflows.runtime.job_target import LOCAL_TARGET, JobTarget, run_job
from llava_av.workflows.runtime.retry import retry_transient
from llava_av.workflows.runtime.workspace import Workspace

__all__ = [
    "MODULE",
    "accuracy_metrics",
    "evaluate_step",
    "log_evaluation",
    "processes_of",
]

_LOG = logging.getLogger(__name__)

MODULE = "llava_av.evaluation"
"""Module of an evaluation job's processes."""


@retry_transient
def evaluate_step(workspace: Workspace, run_id: str, *, target: JobTarget = LOCAL_TARGET) -> EvaluationResult:
    """Evaluate the run's checkpoint, unless it is already evaluated, and log the result to MLflow.

    Raises:
        LaunchError: The job failed; the message has the job's own error.
        RunMissing: The run is not trained.
        MlflowError: MLflow cannot be reached or rejects the request.
    """
    run = Run(store=ObjectStore.from_env(), id=run_id)
    checkpoint, request = run.read(TrainingResult).checkpoint, run.request()
    work = work_of_run(request, checkpoint)
    done = run.find(EvaluationResult)
    if done is not None and done.identity == work.identity():
        _LOG.info("run %s is already evaluated", run.id)
    else:
        processes = processes_of(target, request.recipe.evaluation.num_processes)
        report_progress("evaluate", 0, 0, f"starting {count_of(processes or 1, 'process', 'processes')}")
        with run.timed("evaluate"):
            run_job(workspace, run, target, name="evaluation", module=MODULE, processes=processes)
        done = run.read(EvaluationResult)
    log_evaluation(run, work.task.name, done, step=checkpoint.step)
    if not run.has(GateDecision):
        # Only the gate compares with the champion, since it asks MLflow which version that is.
        for check in settle_again(workspace, read_evaluated_run(run)).checks:
            _LOG.info("expected %s", check.outcome)
    return done


def processes_of(target: JobTarget, wanted: int) -> int | None:
    """Return one process for each GPU of the profile, else as many as wanted; None for a single process."""
    gpus = target.profile.nodes * target.profile.gpus_per_node if target.profile is not None else 0
    processes = gpus or wanted
    return processes if processes > 1 else None


def log_evaluation(run: Run, task: str, evaluation: EvaluationResult, *, step: int) -> None:
    """Log accuracies and losses of a task to MLflow, as metrics such as `val/daily-omni.accuracy.av.joint`.

    Intervals and kinds are in the report only, because MLflow shows each metric as a chart. It sorts them by
    name, so those of `train/` come before these.

    Args:
        run: The run; one without a request represents a model that was not trained here.
        task: Name of the task, `held-out` for the run's own evaluation.
        evaluation: The result.
        step: Optimizer steps of the checkpoint.

    Raises:
        MlflowError: MLflow cannot be reached or rejects the request.
    """
    prefix = "val/" if task == HELD_OUT_TASK else f"val/{task}."
    metrics = {
        f"{prefix}{name}.{ablation}.{family}": value
        for name, table in (("accuracy", _values(evaluation)), ("loss", evaluation.loss))
        for ablation, row in table.items()
        for family, value in row.items()
    }
    log_metrics(run.id, run.find(RunRequest), metrics, step=step)


def _values(evaluation: EvaluationResult) -> dict[str, dict[str, float]]:
    return {
        ablation: {family: cell.value for family, cell in row.items()}
        for ablation, row in evaluation.accuracy.items()
    }


def accuracy_metrics(scores: Scores) -> dict[str, float]:
    """Return accuracies by name, such as `accuracy.av.joint`."""
    return {f"accuracy.{ablation}.{family}": cell.value for ablation, family, cell in scores.cells()}
