"""The learning rate as a function of the step alone, so that resuming needs no scheduler state."""

import math

from llava_av.recipe import OptimizerRecipe

__all__ = ["learning_rate_at"]


def learning_rate_at(step: int, steps: int, recipe: OptimizerRecipe) -> float:
    """Linear warm-up, then a half cosine down to the final share of the peak.

    Args:
        step: optimizer step, from 0.
        steps: steps of the whole run.
        recipe: peak, warm-up and final share.
    """
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, steps - recipe.warmup_steps)
    floor = recipe.final_learning_rate_share
    return recipe.learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))
