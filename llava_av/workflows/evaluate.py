"""Evaluate a run's checkpoint on the held-out split, with and without each modality."""

import logging
from collections.abc import Mapping
from typing import Any

from llava_av.evaluation.work import work_of_run
from llava_av.storage import ObjectStore
from llava_av.tracking.mlflow_run import log_metrics
from llava_av.workflows.outcomes import settle_again
from llava_av.workflows.runs import TRAIN_COMMAND, Run
from llava_av.workflows.runtime.job_target import LOCAL_TARGET, JobTarget, run_job
from llava_av.workflows.runtime.retry import retry_transient
from llava_av.workflows.runtime.workspace import Workspace

__all__ = ["MODULE", "accuracy_table", "evaluate_step", "log_evaluation", "metric_table", "processes_of"]

_LOG = logging.getLogger(__name__)

MODULE = "llava_av.evaluation"
"""Module of an evaluation job's processes."""
_COSTS = ("seconds", "prompt_tokens", "new_tokens", "tokens_per_s")


@retry_transient
def evaluate_step(workspace: Workspace, run_key: str, *, target: JobTarget = LOCAL_TARGET) -> dict[str, Any]:
    """Evaluate the run's checkpoint, unless that was done, log it to MLflow and return evaluation.json.

    Raises:
        LaunchError: the job failed; the text has its own error.
        RunMissing: the run has not been trained.
        MlflowError: MLflow cannot be reached, or refuses.
    """
    run = Run(store=ObjectStore.from_env(), key=run_key)
    train = run.read("train.json", made_by=TRAIN_COMMAND)
    todo = work_of_run(run.request(), train)
    done = run.find("evaluation.json")
    if done is not None and done.get("identity") == todo.identity():
        _LOG.info("run %s is evaluated already", run.key)
    else:
        processes = processes_of(target, run.recipe().evaluation.num_processes)
        with run.timed("evaluate"):
            run_job(workspace, run, target, name="evaluation", module=MODULE, processes=processes)
        done = run.read("evaluation.json", made_by=f"evaluate {run_key}")
    log_evaluation(run, todo.task.name, done, step=train["checkpoint"]["step"])
    if run.find("gate.json") is None:
        # Comparisons with the champion are the gate's to make, which asks MLflow who that is.
        for check in settle_again(workspace, run).checks:
            _LOG.info("expected %s", check.outcome)
    return done


def processes_of(target: JobTarget, asked: int) -> int | None:
    """One for each GPU of the profile, else as many as asked for; None for one that is alone."""
    gpus = target.profile.nodes * target.profile.gpus_per_node if target.profile is not None else 0
    processes = gpus or asked
    return processes if processes > 1 else None


def log_evaluation(run: Run, task: str, evaluation: Mapping[str, Any], *, step: int) -> None:
    """Log what a model came to on a task to MLflow, as metrics such as `daily-omni/accuracy.av.joint`.

    Args:
        run: the run; one that was not opened here stands for a model from elsewhere.
        task: name of the task, `held-out` for what the run held out.
        evaluation: evaluation.json.
        step: optimizer steps behind the checkpoint.

    Raises:
        MlflowError: MLflow cannot be reached, or refuses.
    """
    request = run.find("request.json") or {"run": run.key}
    metrics = {f"{task}/{name}": value for name, value in metric_table(evaluation).items()}
    log_metrics(request, metrics, step=step)


def metric_table(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Every accuracy and difference with its interval, unparsed replies, every loss, and the cost."""
    tables = {"accuracy": "accuracy", "kind": "kinds", "difference": "differences"}
    cells = {
        f"{name}.{ablation}.{key}": cell
        for name, table in tables.items()
        for ablation, row in (evaluation.get(table) or {}).items()
        for key, cell in row.items()
    }
    cells |= {f"modality.{name}": cell for name, cell in (evaluation.get("modalities") or {}).items()}
    found = {name: float(cell["value"]) for name, cell in cells.items()}
    for name, cell in cells.items():
        parts = ("low", "high", "unparsed", "loss")
        found |= {f"{name}.{part}": float(cell[part]) for part in parts if cell.get(part) is not None}
    for ablation, losses in (evaluation.get("loss") or {}).items():
        found |= {f"loss.{ablation}.{family}": float(loss) for family, loss in losses.items()}
    cost = evaluation.get("cost") or {}
    return found | {f"cost.{name}": float(cost[name]) for name in _COSTS if cost.get(name) is not None}


def accuracy_table(evaluation: dict[str, Any]) -> dict[str, float]:
    """Accuracies of evaluation.json by flat name, such as `accuracy.av.joint`."""
    return {
        f"accuracy.{ablation}.{family}": float(cell["value"])
        for ablation, families in evaluation["accuracy"].items()
        for family, cell in families.items()
    }
