"""Finished stages of a run and those to train next, without PyTorch: the pipeline's image has none.

`stages.json` of the run lists the finished stages, and the end of the last one is `train.json`. A job
therefore continues in the first stage that is not listed: from its newest checkpoint, or from the model of
the previous stage.
"""

from collections.abc import Sequence

from llava_av.checkpoints import whole_checkpoints
from llava_av.errors import UserError
from llava_av.recipe import Recipe
from llava_av.runs import Run, StageResults, TrainedStage

__all__ = ["finished_stages", "indices_to_train"]


def finished_stages(run: Run) -> tuple[TrainedStage, ...]:
    """Return the finished stages of a run up to the first whose checkpoint is lost, which trains again."""
    found = run.find(StageResults)
    if found is None:
        return ()
    whole = {one.step: one.digest for one in whole_checkpoints(run.store, run.id)}
    kept: list[TrainedStage] = []
    for one in found.stages:
        if whole.get(one.checkpoint.step) != one.checkpoint.digest:
            break
        kept.append(one)
    return tuple(kept)


def indices_to_train(recipe: Recipe, finished: Sequence[TrainedStage], only: str = "") -> range:
    """Return the indices of the stages that a job trains.

    Args:
        recipe: The whole recipe.
        finished: Finished stages.
        only: Name of the only stage to train; empty for all.

    Raises:
        RecipeError: The recipe has no such stage.
        UserError: The previous stage is not finished.
    """
    spans, done = recipe.schedule.spans, len(finished)
    if not only:
        return range(done, len(spans))
    index = recipe.schedule.named(only).index
    if index > done:
        raise UserError(
            f"stage {only} cannot be trained yet, because stage {spans[index - 1].name} before it is not "
            f"finished: train stage {spans[done].name} first, or all stages without --stage"
        )
    return range(index, index + 1) if index == done else range(0)
