"""AdamW that does not update parts of the model in steps in which they compute nothing.

In distributed training every process runs every part in every step, with blank media if a batch has none, so
that gradients arrive in the same order everywhere. If no process had media for a part, the part's gradients
are zero. Applied, they would decay its weights, and its momentum would move them. Its gradients are therefore
removed before the step: weights, moments and step counts of the part stay as they are, as with a gradient of
None in PyTorch. DeepSpeed flattens the weights of a group into one tensor, so each part has its own groups.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from llava_av.model.parts import PARTS, part_of
from llava_av.recipe import OptimizerRecipe

__all__ = ["build_optimizer", "prepare_step"]


def build_optimizer(model: nn.Module, recipe: OptimizerRecipe) -> torch.optim.AdamW:
    """Return AdamW over the trained weights, without weight decay on vectors (norms and biases).

    Args:
        model: Model whose weights have names that `part_of` knows.
        recipe: Learning rate and weight decay.
    """
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for part in ("language", *PARTS):
        groups |= {(part, is_matrix): [] for is_matrix in (True, False)}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            groups[part_of(name), weight.ndim > 1].append(weight)
    described: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": recipe.weight_decay if is_matrix else 0.0, "part": part}
        for (part, is_matrix), weights in groups.items()
        if weights
    ]
    # DeepSpeed's own fused optimizers need a compiler at run time; PyTorch's do not.
    fused = torch.cuda.is_available()
    betas = (recipe.beta1, recipe.beta2)
    optimizer = torch.optim.AdamW(described, lr=recipe.learning_rate, betas=betas, fused=fused)
    optimizer.register_step_pre_hook(_remove_gradients_of_unused)
    return optimizer


def prepare_step(optimizer: Any, learning_rate: float, unused: Collection[str]) -> None:
    """Set the learning rate and the unused parts of the next step.

    Args:
        optimizer: Optimizer of `build_optimizer`, or DeepSpeed's wrapper of it.
        learning_rate: Learning rate of all groups.
        unused: Parts that computed nothing in this step in any process.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
        group["unused"] = group.get("part") in unused


def _remove_gradients_of_unused(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        if group["unused"]:
            for weight in group["params"]:
                weight.grad = None
