"""What a run's checkpoint came to: on what the run held out, and on every other task it was evaluated on."""

from typing import Any

from llava_av.evaluation.work import evaluation_place
from llava_av.workflows.runs import TRAIN_COMMAND, Run

__all__ = ["read_evaluation", "task_places"]

_RESULT = "evaluation.json"


def read_evaluation(run: Run) -> dict[str, Any]:
    """evaluation.json, with those of the same checkpoint on other tasks by name under `tasks`.

    Raises:
        RunMissing: the run has not been trained, or not been evaluated on what it held out.
    """
    own = run.read(_RESULT, made_by=f"evaluate {run.key}")
    found = {
        task: run.read(f"{place}{_RESULT}", made_by=f"evaluate {run.key} --task {task}")
        for task, place in task_places(run).items()
    }
    # One that was made before the run was trained anew is of another checkpoint at the same place.
    same = {task: one for task, one in found.items() if one["checkpoint"] == own["checkpoint"]}
    return {**own, "tasks": same}


def task_places(run: Run) -> dict[str, str]:
    """Where below the run the evaluations of its checkpoint on other tasks are, ending in `/`, by task.

    Raises:
        RunMissing: the run has not been trained.
    """
    step = run.read("train.json", made_by=TRAIN_COMMAND)["checkpoint"]["step"]
    keys = {info.key for info in run.store.list(run.path("evaluations/"))}
    tasks = {key.removeprefix(run.path("evaluations/")).split("/")[0] for key in keys}
    places = {task: f"{evaluation_place(task, step)}/" for task in sorted(tasks)}
    return {task: place for task, place in places.items() if run.path(f"{place}{_RESULT}") in keys}
