"""Evaluate a run's checkpoint on the held-out split, with and without each modality."""

from typing import Any

from llava_av.evaluation.work import work_of_run
from llava_av.steps.context import Workspace
from llava_av.steps.jobs import HERE, JobPlace, run_job
from llava_av.steps.outcomes import settle_outcome
from llava_av.steps.patience import patient
from llava_av.steps.references import find_references
from llava_av.steps.runs import TRAIN_COMMAND, Run
from llava_av.storage import ObjectStore

__all__ = ["MODULE", "accuracy_table", "evaluate_step", "processes_of"]

MODULE = "llava_av.evaluation"
"""Module of an evaluation job's processes."""


@patient
def evaluate_step(workspace: Workspace, run_key: str, *, place: JobPlace = HERE) -> dict[str, Any]:
    """Evaluate the run's checkpoint, unless that was done, and return evaluation.json.

    Raises:
        LaunchError: the job failed; the text has its own error.
        RunMissing: the run has not been trained.
    """
    run = Run(store=ObjectStore.from_env(), key=run_key)
    todo = work_of_run(run.request(), run.read("train.json", made_by=TRAIN_COMMAND))
    done = run.find("evaluation.json")
    if done is not None and done.get("identity") == todo.identity():
        print(f"run {run.key} is evaluated already")
    else:
        processes = processes_of(place, run.recipe().evaluation.processes)
        with run.timed("evaluate"):
            run_job(workspace, run, place, name="evaluation", module=MODULE, processes=processes)
        done = run.read("evaluation.json", made_by=f"evaluate {run_key}")
    if run.find("gate.json") is None:
        # Comparisons with the champion are the gate's to make, which asks MLflow who that is.
        outcome = settle_outcome(workspace, run, done, find_references(run, run.record()))
        for check in outcome.checks:
            print(f"expected {check.outcome}")
    return done


def processes_of(place: JobPlace, asked: int) -> int | None:
    """One for each GPU of the profile, else as many as asked for; None for one that is alone."""
    gpus = place.profile.nodes * place.profile.gpus_per_node if place.profile is not None else 0
    processes = gpus or asked
    return processes if processes > 1 else None


def accuracy_table(evaluation: dict[str, Any]) -> dict[str, float]:
    """Accuracies of evaluation.json by flat name, such as `accuracy.av.joint`."""
    return {
        f"accuracy.{ablation}.{family}": float(cell["value"])
        for ablation, families in evaluation["accuracy"].items()
        for family, cell in families.items()
    }
