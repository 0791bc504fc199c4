"""Section `data`: the part of each dataset to use."""

from collections.abc import Collection
from typing import ClassVar

from pydantic import Field

from llava_av.recipe.errors import RecipeError
from llava_av.recipe.section import MOST_STEPS, Section

__all__ = ["DataRecipe", "MixedDataset"]


class MixedDataset(Section):
    """Use of one dataset."""

    weight: float | None = Field(default=None, gt=0, le=1e9)
    """Weight of its share of the samples trained on; all datasets of a run have one, or none has one."""
    max_samples: int | None = Field(default=None, ge=1, le=MOST_STEPS)
    """Maximum number of its training samples, drawn by the seed; null: all."""


class DataRecipe(Section):
    """Selection of the datasets' samples."""

    section: ClassVar[str] = "data"

    max_bad_share: float = Field(default=0.05, ge=0, le=1)
    """Maximum share of samples that are quarantined or do not fit the model."""
    held_out_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of a user's own dataset to hold out, by a hash of each clip's content (at least one sample)."""
    mix: dict[str, MixedDataset] = Field(default={})
    """Use of single datasets of a run by name, with `weight`, `max_samples` or both. Without weights, each
    epoch has every sample of all datasets once."""
    demo_train_blocks: int = Field(default=60, ge=1, le=1_000_000)
    """Blocks of 16 clips in the train split of the demonstration dataset."""
    demo_held_out_blocks: int = Field(default=10, ge=1, le=1_000_000)
    """Blocks of 16 clips in the held-out split of the demonstration dataset."""

    def require_datasets(self, names: Collection[str]) -> None:
        """Require that `mix` fits the datasets of a run.

        Raises:
            RecipeError: It names another dataset, or gives weights to some datasets only.
        """
        for name in self.mix:
            if name not in names:
                raise RecipeError(
                    f"data.mix.{name} is not a dataset of this run, which has {', '.join(names)}: add it to "
                    "--dataset, or remove it from data.mix"
                )
        without = [name for name in names if self.weight(name) is None]
        if without and len(without) < len(names):
            raise RecipeError(
                f"data.mix has weights, but none for {', '.join(without)}: give every dataset of the run a "
                "weight, or none"
            )

    def weight(self, name: str) -> float | None:
        """Return the weight of a dataset; None if it has none."""
        return self.mix[name].weight if name in self.mix else None

    def max_samples(self, name: str) -> int | None:
        """Return the maximum number of a dataset's training samples; None for all."""
        return self.mix[name].max_samples if name in self.mix else None
