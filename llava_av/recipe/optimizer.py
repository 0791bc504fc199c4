"""Section `optimizer`: AdamW and its learning rate schedule."""

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from llava_av.frozen import FrozenModel
from llava_av.recipe.parts import PartName
from llava_av.recipe.section import MOST_STEPS, Section

__all__ = ["OptimizerRecipe", "PartOptimizer", "PartSettings"]


class PartOptimizer(Section):
    """Settings of one part of the model."""

    learning_rate: float | None = Field(default=None, gt=0, le=1e30)
    """Peak learning rate of the part; null: that of all."""
    weight_decay: float | None = Field(default=None, ge=0, le=1_000)
    """Decoupled weight decay of the part's matrices; null: that of all, and none for embeddings."""


class PartSettings(FrozenModel):
    """Settings that a part of the model is trained with."""

    learning_rate: float
    """Peak learning rate."""
    weight_decay: float
    """Decoupled weight decay of matrices."""


def _with_settings(parts: dict[PartName, PartOptimizer]) -> dict[PartName, PartOptimizer]:
    """Leave out parts without settings, so that equal trainings have equal recipes."""
    return {part: own for part, own in parts.items() if own != PartOptimizer()}


class OptimizerRecipe(Section):
    """AdamW with linear warm-up, a constant learning rate, and cosine decay."""

    section: ClassVar[str] = "optimizer"

    learning_rate: float = Field(default=1e-3, gt=0, le=1e30)
    """Peak learning rate; float32 can apply no value above the upper bound."""
    min_lr_ratio: float = Field(default=0.1, ge=0, le=1)
    """Learning rate at the last step, as a ratio of the peak."""
    warmup_steps: int = Field(default=50, ge=0, le=MOST_STEPS)
    """Steps of linear warm-up."""
    decay_ratio: float = Field(default=1.0, gt=0, le=1)
    """Ratio of the steps after the warm-up, the last ones, in which the learning rate decays; 1: all."""
    weight_decay: float = Field(default=0.01, ge=0, le=1_000)
    """Decoupled weight decay of matrices; norms, biases and embeddings do not decay."""
    parts: Annotated[dict[PartName, PartOptimizer], AfterValidator(_with_settings)] = Field(default={})
    """Other settings by part, with `learning_rate`, `weight_decay` or both; the parts are those of
    `model.trainable_parts` and `model.adapter`."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay rate of the first moment."""
    beta2: float = Field(default=0.98, ge=0, lt=1)
    """Decay rate of the second moment."""
    max_grad_norm: float = Field(default=1.0, ge=1e-30, le=1e30)
    """Gradient norm above which gradients are clipped."""

    def of_part(self, part: PartName) -> PartSettings:
        """Return the settings of a part, with those of all parts in place of what it does not set."""
        own = self.parts.get(part, PartOptimizer())
        shared_decay = 0.0 if part == "embeddings" else self.weight_decay
        return PartSettings(
            learning_rate=self.learning_rate if own.learning_rate is None else own.learning_rate,
            weight_decay=shared_decay if own.weight_decay is None else own.weight_decay,
        )
