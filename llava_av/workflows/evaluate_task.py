"""Evaluation of any model on a task, under every ablation, with the result in MLflow."""

import logging
from pathlib import Path

from llava_av.checkpoints import stored_adapter_base
from llava_av.datasets.committing import commit_dataset
from llava_av.evaluation.tasks import load_task, read_task_samples
from llava_av.recipe import EvaluationRecipe
from llava_av.runs import (
    DatasetName,
    EvaluationResult,
    EvaluationWork,
    GateDecision,
    Registration,
    Run,
    evaluation_place,
)
from llava_av.storage import ObjectStore
from llava_av.workflows.evaluate import MODULE, log_evaluation, processes_of
from llava_av.workflows.evaluated_run import read_evaluated_run
from llava_av.workflows.find_model import NamedModel, find_model
from llava_av.workflows.model_card import write_model_card
from llava_av.workflows.run_outcomes import settle_again
from llava_av.workflows.runtime.job_target import LOCAL_TARGET, JobTarget, run_job
from llava_av.workflows.runtime.retry import retry_transient
from llava_av.workflows.runtime.workspace import Workspace

__all__ = ["evaluate_task_step"]

_LOG = logging.getLogger(__name__)


@retry_transient
def evaluate_task_step(
    workspace: Workspace,
    model: str,
    task: str,
    data: Path,
    *,
    batch_size: int,
    processes: int = 1,
    seed: int = 0,
    target: JobTarget = LOCAL_TARGET,
) -> EvaluationResult:
    """Evaluate a model on a task, unless it is already evaluated, and log its metrics to MLflow.

    If the run is evaluated on its held-out split, also check its record's expectations for the task.

    Args:
        workspace: Folder for logs, and for the work of jobs on this machine.
        model: Run ID, `models:/NAME/VERSION` or `@ALIAS`, `s3://…` of a checkpoint, or a folder.
        task: Name of a task, or its YAML file.
        data: Folder in the task's format.
        batch_size: Number of samples per batch.
        processes: Processes that share the questions if the profile has no GPUs.
        seed: Seed of the resamples and of the shuffled audio.
        target: Job target.

    Raises:
        UserError: The model or task is unknown, the data are not in the task's format or lack media, or the
            job failed.
    """
    loaded = load_task(task)
    samples = read_task_samples(loaded, data)
    store = ObjectStore.from_env()
    named = find_model(store, model)
    # Evaluations that run at the same time, on different parts of the task, each have their own commit.
    commit = commit_dataset(
        store, f"task-{loaded.name}", data, {"questions": samples}, (), on_conflict="force"
    )
    work = EvaluationWork(
        task=loaded.note(),
        dataset=DatasetName(name=commit.name, commit=commit.id),
        split="questions",
        checkpoint=named.checkpoint,
        media=None,
        max_new_tokens=loaded.max_new_tokens,
        bootstrap_draws=EvaluationRecipe().bootstrap_draws,
        seed=seed,
        batch_size=batch_size,
        adapter_base=stored_adapter_base(store, named.checkpoint.uri),
    )
    evaluation = _evaluate(workspace, store, named, work, target, processes)
    run = Run(store=store, id=named.run)
    log_evaluation(run, loaded.name, evaluation, step=named.step)
    _check_again(workspace, run, loaded.name)
    return evaluation


def _check_again(workspace: Workspace, run: Run, task: str) -> None:
    """Check the expectations for the task in the record of the model's run, if the run is evaluated."""
    if not run.has(EvaluationResult):
        return
    evaluated = read_evaluated_run(run)
    if task not in evaluated.evaluation.tasks:
        return
    outcome = settle_again(workspace, evaluated)
    for check in outcome.checks:
        if check.task == task:
            _LOG.info("expected %s", check.outcome)
    gate, registered = run.find(GateDecision), run.find(Registration)
    if gate is not None and registered is not None:
        write_model_card(evaluated, registered, gate, outcome)


def _evaluate(
    workspace: Workspace,
    store: ObjectStore,
    named: NamedModel,
    work: EvaluationWork,
    target: JobTarget,
    processes: int,
) -> EvaluationResult:
    run = Run(store=store, id=named.run)
    at = evaluation_place(work.task.name, named.step)
    done = run.find(EvaluationResult, at)
    if done is not None and done.identity == work.identity():
        _LOG.info("%s is already evaluated on %s", named.checkpoint.uri, work.task.name)
        return done
    run.write(work, at)
    run_job(
        workspace,
        run,
        target,
        name=f"evaluation-{work.task.name}"[:40].rstrip("-"),
        module=MODULE,
        processes=processes_of(target, processes),
        arguments=("--at", at.rstrip("/")),
    )
    return run.read(EvaluationResult, at, command=f"evaluate {named.run} --task {work.task.name}")
