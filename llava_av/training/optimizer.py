"""AdamW that does not update parts of the model in steps in which they compute nothing.

In distributed training every process runs every part in every step, with blank media if a batch has none, so
that gradients arrive in the same order everywhere. If no process had media for a part, the part's gradients
are zero. Applied, they would decay its weights, and its momentum would move them. Its gradients are therefore
removed before the step: weights, moments and step counts of the part stay as they are, as with a gradient of
None in PyTorch. DeepSpeed flattens the weights of a group into one tensor, so each part has its own groups.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from llava_av.errors import UserError
from llava_av.model.parts import PARTS, part_of, trainable_parts
from llava_av.vocabulary import PART_NAMES, PartName

if TYPE_CHECKING:
    from llava_av.recipe import OptimizerRecipe

__all__ = [
    "TrainingError",
    "build_optimizer",
    "fresh_state",
    "prepare_step",
    "update_if_finite",
    "updated_states",
]


class TrainingError(UserError):
    """A recipe that trains nothing."""


def build_optimizer(model: nn.Module, recipe: OptimizerRecipe) -> torch.optim.AdamW:
    """Return AdamW over the trained weights, without weight decay on norms, biases and embeddings.

    Args:
        model: Model whose weights have names that `part_of` knows.
        recipe: Learning rate and weight decay, of all weights and of single parts.

    Raises:
        TrainingError: No weight is trained, or the model lacks a part that has its own settings.
    """
    by_name = trainable_parts(model)
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    groups: dict[tuple[str, PartName, bool], list[nn.Parameter]] = {
        (with_input, part, decays): []
        for with_input in ("language", *PARTS)
        for part in PART_NAMES
        for decays in (True, False)
    }
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            part = by_name[name]
            # ZeRO 3 keeps the shape of a weight that it has partitioned.
            is_matrix = len(getattr(weight, "ds_shape", weight.shape)) > 1
            decays = is_matrix and (part == "embeddings" or id(weight) not in tables)
            groups[part_of(name), part, decays].append(weight)
    settings = {part: recipe.of_part(part) for part in PART_NAMES}
    described = [
        {
            "params": weights,
            "weight_decay": settings[part].weight_decay if decays else 0.0,
            "with_input": with_input,
            "lr_ratio": settings[part].learning_rate / recipe.learning_rate,
        }
        for (with_input, part, decays), weights in groups.items()
        if weights
    ]
    if not described:
        raise TrainingError(
            "the model has no weights in model.trainable_parts: add a part that the model has"
        )
    trained = {part for (_, part, _), weights in groups.items() if weights}
    absent = [part for part in recipe.parts if part not in trained]
    if absent:
        raise TrainingError(
            f"optimizer.parts has {', '.join(absent)}, of which the model has no trained weights: remove it"
        )
    # DeepSpeed's own fused optimizers need a compiler at run time; PyTorch's do not.
    fused = torch.cuda.is_available()
    betas = (recipe.beta1, recipe.beta2)
    optimizer = torch.optim.AdamW(described, lr=recipe.learning_rate, betas=betas, fused=fused)
    _keep_unused(optimizer)
    return optimizer


def prepare_step(optimizer: Any, learning_rate: float, unused: Collection[str]) -> None:
    """Set the learning rate and the unused parts of the next step.

    Args:
        optimizer: Optimizer of `build_optimizer`, or DeepSpeed's wrapper of it.
        learning_rate: Learning rate of parts without one of their own; the others' changes in proportion.
        unused: Parts that computed nothing in this step in any process.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["lr_ratio"]
        group["unused"] = group["with_input"] in unused


def update_if_finite(optimizer: Any, grad_norm: Tensor) -> None:
    """Update the weights if the norm of their gradient is finite.

    A fused optimizer decides that on the device, so the host does not wait for the norm.

    Args:
        optimizer: Optimizer of `build_optimizer`.
        grad_norm: Norm of the gradient, one element on the device of the weights.
    """
    if optimizer.defaults.get("fused"):
        optimizer.found_inf = grad_norm.isfinite().logical_not().float()
        optimizer.step()
    elif math.isfinite(grad_norm):
        optimizer.step()


def updated_states(optimizer: torch.optim.Optimizer) -> Mapping[Tensor, Any]:
    """Return the state of each weight that was updated; a fused optimizer keeps that of skipped steps too."""
    states = {weight: state for weight, state in optimizer.state.items() if state}
    if not optimizer.defaults.get("fused") or not states:
        return states
    counts = torch.stack([state["step"] for state in states.values()]).tolist()
    pairs = zip(states.items(), counts, strict=True)
    return {weight: state for (weight, state), count in pairs if count}


def fresh_state(optimizer: torch.optim.Optimizer, weight: Tensor, updates: float) -> dict[str, Tensor]:
    """Return AdamW's state of a weight after so many updates, with moments of zero."""
    # A fused optimizer counts on the device.
    device = weight.device if optimizer.defaults.get("fused") else torch.device("cpu")
    state = {"step": torch.tensor(updates, dtype=torch.float32, device=device)}
    return state | {kind: torch.zeros_like(weight.detach()) for kind in ("exp_avg", "exp_avg_sq")}


def _keep_unused(optimizer: torch.optim.Optimizer) -> None:
    """Make the optimizer's steps leave out unused parts.

    Their gradients return after the step: with an offloaded optimizer, DeepSpeed writes those of the next
    step into the same tensors.
    """
    removed: list[tuple[Tensor, Tensor | None]] = []

    def remove(*_: Any) -> None:
        for group in optimizer.param_groups:
            for weight in group["params"] if group["unused"] else ():
                removed.append((weight, weight.grad))
                weight.grad = None

    def restore(*_: Any) -> None:
        for weight, gradient in removed:
            weight.grad = gradient
        removed.clear()

    optimizer.register_step_pre_hook(remove)
    optimizer.register_step_post_hook(restore)
