"""Comparison of two models on a task that both were evaluated on."""

from pydantic import JsonValue

from llava_av.evaluation.comparison import compare_predictions, require_same_task
from llava_av.frozen import FrozenModel
from llava_av.runs import (
    CheckpointName,
    EvaluatedDataset,
    EvaluationResult,
    PairedComparison,
    Prediction,
    Run,
    TaskNote,
    evaluation_place,
)
from llava_av.storage import ObjectStore
from llava_av.workflows.find_model import find_model
from llava_av.workflows.runtime.retry import retry_transient

__all__ = ["TaskComparison", "compare_models_step"]


class TaskComparison(FrozenModel):
    """Two checkpoints on one task."""

    task: TaskNote
    dataset: EvaluatedDataset
    checkpoints: tuple[CheckpointName, CheckpointName]
    paired: PairedComparison

    def to_json(self) -> dict[str, JsonValue]:
        """Return the comparison as `evaluation compare --output` writes it."""
        found = self.model_dump(mode="json", exclude={"paired"})
        return {**found, **self.paired.model_dump(mode="json")}


@retry_transient
def compare_models_step(first: str, second: str, task: str | None) -> TaskComparison:
    """Compare two models on the same questions, first minus second; both must be evaluated on them.

    Args:
        first: A model, in any form that `find_model` accepts.
        second: The other model.
        task: Name of the task; None for the runs' own evaluations.

    Raises:
        RunMissing: A model is not evaluated on the task.
        EvaluationError: The models were evaluated on different questions.
    """
    store = ObjectStore.from_env()
    one, answers = _evaluated(store, first, task)
    other, other_answers = _evaluated(store, second, task)
    noted = require_same_task(one, other)
    return TaskComparison(
        task=noted,
        dataset=one.dataset,
        checkpoints=(one.checkpoint, other.checkpoint),
        paired=compare_predictions(answers, other_answers),
    )


def _evaluated(
    store: ObjectStore, model: str, task: str | None
) -> tuple[EvaluationResult, tuple[Prediction, ...]]:
    named = find_model(store, model)
    run = Run(store=store, id=named.run)
    at = evaluation_place(task, named.step) if task else ""
    command = f"evaluate {model} --task {task} --data FOLDER" if task else f"evaluate {model}"
    evaluation = run.read(EvaluationResult, at, command=command)
    return evaluation, run.predictions(evaluation, at)
