"""Learning rate as a function of the step alone, so that resuming needs no scheduler state."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llava_av.recipe import OptimizerRecipe

__all__ = ["learning_rate_at"]


def learning_rate_at(step: int, steps: int, recipe: OptimizerRecipe) -> float:
    """Return the learning rate of a step: linear warm-up, the peak, then half a cosine to the minimum.

    Args:
        step: Optimizer step, from 0.
        steps: Steps of the whole run.
        recipe: Peak, warm-up steps, ratio of the steps that decay, and ratio of the minimum to the peak.
    """
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    decaying = recipe.decay_ratio * max(1, steps - recipe.warmup_steps)
    done = max(0.0, 1 - (steps - step) / decaying)
    minimum = recipe.min_lr_ratio
    return recipe.learning_rate * (minimum + (1 - minimum) * 0.5 * (1 + math.cos(math.pi * done)))
