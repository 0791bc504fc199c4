"""What an evaluation is to do, as far as its outcome depends on it, and where in S3 it is and leaves that."""

import hashlib
import json
from typing import Any

from pydantic import Field

from llava_av.evaluation.parsing import RULES
from llava_av.frozen import FrozenModel
from llava_av.recipe import MediaRecipe, Recipe
from llava_av.storage import ObjectStore

__all__ = [
    "HELD_OUT",
    "CheckpointName",
    "DatasetName",
    "EvaluationWork",
    "TaskNote",
    "evaluation_place",
    "read_work",
    "work_of_run",
]

_PROTOCOL = 3
"""Version of how questions are asked and judged; results of another one are not taken for this one's."""


class TaskNote(FrozenModel):
    """What a result says about its task."""

    name: str
    version: int
    """Of the task's file: of its prompt and of how its data are read."""
    rule: str
    """How replies are read; a name of `llava_av.evaluation.parsing.RULES`."""
    rule_version: int
    prompt: str
    """What is asked, with `{question}` and `{choices}`; empty where the data hold whole conversations."""


class DatasetName(FrozenModel):
    """A dataset commit."""

    name: str
    commit: str


class CheckpointName(FrozenModel):
    """A checkpoint in S3, and what its state has to hash to."""

    uri: str
    digest: str


HELD_OUT = TaskNote(
    name="held-out", version=1, rule="choice", rule_version=RULES["choice"].version, prompt=""
)
"""The task of a run's own evaluation: the last question of each held-out conversation."""


class EvaluationWork(FrozenModel):
    """One evaluation: equal work has equal answers, whoever does it."""

    task: TaskNote
    dataset: DatasetName
    split: str
    """Name of the split that is asked."""
    checkpoint: CheckpointName
    media: MediaRecipe | None
    """How clips are decoded; None: as the model's config says."""
    max_new_tokens: int = Field(ge=1)
    """Tokens after which a reply is cut."""
    bootstrap_draws: int = Field(ge=200)
    """Resamples behind each interval."""
    seed: int = Field(ge=0)
    """Of the resamples, and of who gets whose sound."""
    batch_size: int = Field(ge=1)
    """Samples asked together: changes the time and no answer."""

    def identity(self) -> str:
        """Of everything but the batch size, 64 hex digits."""
        parts = {"protocol": _PROTOCOL, **self.model_dump(mode="json", exclude={"batch_size"})}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def evaluation_place(task: str, step: int) -> str:
    """Where below a run the evaluation of one of its checkpoints on another task is."""
    return f"evaluations/{task}/step-{step:08d}"


def read_work(store: ObjectStore, run: str, at: str) -> EvaluationWork:
    """What the evaluation at a place of a run is to do.

    Args:
        store: Where runs are.
        run: Run key.
        at: As `evaluation_place` gives it; empty for the run's own evaluation.

    Raises:
        ObjectMissing: there is no such request, or the run has not been trained.
    """
    if at:
        return EvaluationWork.model_validate(store.get_json(f"runs/{run}/{at}/request.json"))
    request, train = store.get_json(f"runs/{run}/request.json"), store.get_json(f"runs/{run}/train.json")
    return work_of_run(request, train)


def work_of_run(request: dict[str, Any], train: dict[str, Any]) -> EvaluationWork:
    """The run's own evaluation: its last checkpoint on the split that it did not train on.

    Args:
        request: request.json.
        train: train.json.
    """
    recipe = Recipe.model_validate(request["recipe"])
    return EvaluationWork(
        task=HELD_OUT,
        dataset=DatasetName.model_validate(request["dataset"]),
        split="held_out",
        checkpoint=CheckpointName(uri=train["checkpoint"]["uri"], digest=train["checkpoint"]["digest"]),
        media=recipe.media,
        max_new_tokens=recipe.evaluation.max_new_tokens,
        bootstrap_draws=recipe.evaluation.bootstrap_draws,
        seed=recipe.seed,
        batch_size=recipe.evaluation.batch_size,
    )
