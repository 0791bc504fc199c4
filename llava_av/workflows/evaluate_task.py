"""Evaluate any model on a task, under every ablation, and log what came out to MLflow."""

import logging
from pathlib import Path
from typing import Any

from llava_av.datasets.commits import commit_dataset
from llava_av.evaluation.tasks import load_task, read_samples
from llava_av.evaluation.work import DatasetName, EvaluationWork, evaluation_place
from llava_av.recipe import EvaluationRecipe
from llava_av.storage import ObjectStore
from llava_av.workflows.evaluate import MODULE, log_evaluation, processes_of
from llava_av.workflows.find_model import NamedModel, find_model
from llava_av.workflows.model_card import keep_model_card
from llava_av.workflows.outcomes import settle_again
from llava_av.workflows.runs import Run
from llava_av.workflows.runtime.job_target import LOCAL_TARGET, JobTarget, run_job
from llava_av.workflows.runtime.retry import retry_transient
from llava_av.workflows.runtime.workspace import Workspace
from llava_av.workflows.task_evaluations import task_places

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
) -> dict[str, Any]:
    """Evaluate a model on a task, unless that was done, log its metrics to MLflow and return evaluation.json.

    What a run's record expects of the task is judged, if the run was evaluated on what it held out.

    Args:
        workspace: Where jobs work when they run here.
        model: Run key, `models:/NAME/VERSION` or `@ALIAS`, `s3://…` of a checkpoint, or a folder.
        task: Name of a task, or its YAML file.
        data: Folder in the task's format.
        batch_size: Samples asked together.
        processes: Processes that share the questions where the profile has no GPUs to say so.
        seed: Of the resamples, and of who gets whose sound.
        target: Where the job runs.

    Raises:
        UserError: an unknown model or task, data that are not in its format or lack media, or a job that
            failed; named in one line.
    """
    asks = load_task(task)
    samples = read_samples(asks, data)
    store = ObjectStore.from_env()
    named = find_model(store, model)
    commit = commit_dataset(store, f"task-{asks.name}", data, {"questions": samples}, ())
    todo = EvaluationWork(
        task=asks.note(),
        dataset=DatasetName(name=commit.name, commit=commit.id),
        split="questions",
        checkpoint=named.checkpoint,
        media=None,
        max_new_tokens=asks.max_new_tokens,
        bootstrap_draws=EvaluationRecipe().bootstrap_draws,
        seed=seed,
        batch_size=batch_size,
    )
    evaluation = _evaluated(workspace, store, named, todo, target, processes)
    run = Run(store=store, key=named.run)
    log_evaluation(run, asks.name, evaluation, step=named.step)
    _judge_again(workspace, run, asks.name)
    return evaluation


def _judge_again(workspace: Workspace, run: Run, task: str) -> None:
    """Where the run that trained the model was judged already: what its record expects of this task."""
    if run.find("evaluation.json") is None or task not in task_places(run):
        return
    for check in settle_again(workspace, run).checks:
        if check.task == task:
            _LOG.info("expected %s", check.outcome)
    if run.find("gate.json") is not None:
        keep_model_card(run)


def _evaluated(
    workspace: Workspace,
    store: ObjectStore,
    named: NamedModel,
    todo: EvaluationWork,
    target: JobTarget,
    processes: int,
) -> dict[str, Any]:
    run = Run(store=store, key=named.run)
    at = evaluation_place(todo.task.name, named.step)
    done = run.find(f"{at}/evaluation.json")
    if done is not None and done.get("identity") == todo.identity():
        _LOG.info("%s is evaluated on %s already", named.checkpoint.uri, todo.task.name)
        return done
    run.write(f"{at}/request.json", todo.model_dump(mode="json"))
    run_job(
        workspace,
        run,
        target,
        name=f"evaluation-{todo.task.name}"[:40].rstrip("-"),
        module=MODULE,
        processes=processes_of(target, processes),
        arguments=("--at", at),
    )
    return run.read(f"{at}/evaluation.json", made_by=f"evaluate {named.run} --task {todo.task.name}")
