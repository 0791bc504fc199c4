"""Section `evaluation`: evaluation of the held-out split."""

from typing import ClassVar

from pydantic import Field

from llava_av.recipe.section import Section

__all__ = ["EvaluationRecipe"]


class EvaluationRecipe(Section):
    """Evaluation on the held-out split."""

    section: ClassVar[str] = "evaluation"

    batch_size: int = Field(default=64, ge=1, le=1_000_000)
    """Samples per batch; it affects the speed, not the answers."""
    num_processes: int = Field(default=1, ge=1, le=100_000)
    """Processes that share the questions; they affect the speed, not the answers."""
    max_new_tokens: int = Field(default=8, ge=1, le=1_000_000)
    """Maximum number of tokens of a reply."""
    bootstrap_draws: int = Field(default=2000, ge=200, le=1_000_000)
    """Bootstrap resamples for each paired interval."""
