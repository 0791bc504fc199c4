"""Compare two models on a task that both were evaluated on."""

from typing import Any

from llava_av.evaluation.answers import Prediction
from llava_av.evaluation.comparison import compare_predictions, require_same_task
from llava_av.evaluation.work import evaluation_place
from llava_av.recipe import EvaluationRecipe
from llava_av.storage import ObjectStore
from llava_av.workflows.find_model import find_model
from llava_av.workflows.runs import Run
from llava_av.workflows.runtime.retry import retry_transient

__all__ = ["compare_models_step"]


@retry_transient
def compare_models_step(first: str, second: str, task: str | None, *, seed: int = 0) -> dict[str, Any]:
    """The paired comparison of two models; both have to have been evaluated on the same.

    Args:
        first: A model, named as `find_model` takes it.
        second: Another one.
        task: Name of the task; None for the runs' own evaluations.
        seed: Seed of the resamples.

    Raises:
        RunMissing: one was not evaluated on that.
        EvaluationError: they were asked different things.
    """
    store = ObjectStore.from_env()
    sides = [_evaluated(store, model, task) for model in (first, second)]
    require_same_task(sides[0][0], sides[1][0])
    draws = EvaluationRecipe().bootstrap_draws
    compared = compare_predictions(sides[0][1], sides[1][1], draws=draws, seed=seed)
    checkpoints = [evaluation["checkpoint"] for evaluation, _ in sides]
    return {
        "task": sides[0][0]["task"],
        "dataset": sides[0][0]["dataset"],
        "checkpoints": checkpoints,
        **compared,
    }


def _evaluated(store: ObjectStore, model: str, task: str | None) -> tuple[dict[str, Any], list[Prediction]]:
    named = find_model(store, model)
    run = Run(store=store, key=named.run)
    prefix = f"{evaluation_place(task, named.step)}/" if task else ""
    how = f"evaluate {model} --task {task} --data FOLDER" if task else f"evaluate {model}"
    evaluation = run.read(f"{prefix}evaluation.json", made_by=how)
    return evaluation, [Prediction.model_validate(row) for row in run.predictions(prefix)]
