"""Requests of evaluation jobs, and the evaluation that every run gets."""

from llava_av.evaluation.reply_parsing import RULES
from llava_av.runs import (
    CheckpointName,
    EvaluationWork,
    Run,
    RunRequest,
    TaskNote,
    TrainedCheckpoint,
    TrainingResult,
)
from llava_av.vocabulary import HELD_OUT_TASK

__all__ = ["HELD_OUT", "read_work", "work_of_run"]

HELD_OUT = TaskNote(
    name=HELD_OUT_TASK, version=1, rule="choice", rule_version=RULES["choice"].version, prompt=""
)
"""Task of a run's own evaluation, with the last question of each held-out conversation."""


def read_work(run: Run, at: str) -> EvaluationWork:
    """Return the request of an evaluation of a run.

    Args:
        run: The run.
        at: Prefix that `evaluation_place` returns; empty for the run's own evaluation.

    Raises:
        RunMissing: The request does not exist, or the run is not trained yet.
    """
    if at:
        return run.read(EvaluationWork, at)
    return work_of_run(run.request(), run.read(TrainingResult).checkpoint)


def work_of_run(request: RunRequest, checkpoint: TrainedCheckpoint) -> EvaluationWork:
    """Return the request of a run's own evaluation, of its last checkpoint on the held-out split."""
    recipe = request.recipe
    return EvaluationWork(
        task=HELD_OUT,
        dataset=request.dataset,
        split="held_out",
        checkpoint=CheckpointName(uri=checkpoint.uri, digest=checkpoint.digest),
        media=recipe.media,
        max_new_tokens=recipe.evaluation.max_new_tokens,
        bootstrap_draws=recipe.evaluation.bootstrap_draws,
        seed=recipe.seed,
        batch_size=recipe.evaluation.batch_size,
    )
