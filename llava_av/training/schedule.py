"""The learning rate as a function of the step alone, so that resuming needs no scheduler state."""

import math

from llava_av.recipe import OptimizerRecipe

__all__ = ["learning_rate_at"]


def learning_rate_at(step: int, steps: int, recipe: OptimizerRecipe) -> float:
    """Linear warm-up, the peak, then a half cosine down to the final share of it.

    Args:
        step: optimizer step, from 0.
        steps: steps of the whole run.
        recipe: peak, warm-up, share of the steps that decay, and final share.
    """
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    decaying = recipe.decay_ratio * max(1, steps - recipe.warmup_steps)
    done = max(0.0, 1 - (steps - step) / decaying)
    floor = recipe.min_lr_ratio
    return recipe.learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))
