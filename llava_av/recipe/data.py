"""Section `data`: the part of a dataset to use."""

from typing import ClassVar

from pydantic import Field

from llava_av.recipe.section import Section

__all__ = ["DataRecipe"]


class DataRecipe(Section):
    """Selection of a dataset's samples."""

    section: ClassVar[str] = "data"

    max_bad_share: float = Field(default=0.05, ge=0, le=1)
    """Maximum share of samples that are quarantined or do not fit the model."""
    held_out_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of a user's own dataset to hold out, by a hash of each clip's content (at least one sample)."""
    demo_train_blocks: int = Field(default=60, ge=1, le=1_000_000)
    """Blocks of 16 clips in the train split of the demonstration dataset."""
    demo_held_out_blocks: int = Field(default=10, ge=1, le=1_000_000)
    """Blocks of 16 clips in the held-out split of the demonstration dataset."""
