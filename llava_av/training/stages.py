"""Stages of a training job, and the model that each of them starts from."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from llava_av.datasets.schema import Sample
from llava_av.errors import UserError
from llava_av.model import LlavaAvConfig, LlavaAvForConditionalGeneration
from llava_av.model.adapters import set_trained_weights
from llava_av.recipe import Recipe, StageSpan
from llava_av.runs import Run, TrainedStage
from llava_av.training.order import SampleOrder
from llava_av.training.stage_progress import finished_stages

__all__ = ["JobStage", "require_later_stages", "stage_of_checkpoint", "stage_seed"]


@dataclass(frozen=True, kw_only=True)
class JobStage:
    """A stage of a training; a training without stages has a single one."""

    span: StageSpan
    recipe: Recipe
    """Recipe of the stage; its base model is the result of the previous one."""
    earlier: tuple[TrainedStage, ...] = ()
    """Stages before this one."""

    @classmethod
    def at(cls, recipe: Recipe, index: int, finished: Sequence[TrainedStage]) -> "JobStage":
        """Return a stage of a recipe.

        Args:
            recipe: The whole recipe.
            index: Index of the stage.
            finished: Finished stages, at least all before it.
        """
        own = recipe.of_stage(index)
        if index:
            before = finished[index - 1]
            assert before.model_digest is not None, "only the last stage trains an adapter"
            own = own.with_trained_base(before.checkpoint.uri, before.model_digest)
        return cls(span=recipe.schedule.spans[index], recipe=own, earlier=tuple(finished[:index]))

    @property
    def seed(self) -> int:
        """Return the seed of the order of samples and of the random number generators."""
        return stage_seed(self.recipe.seed, self.span.index)

    @property
    def row(self) -> dict[str, float]:
        """Return the fields that a stage adds to rows of the journal: its index, if it has a name."""
        return {"stage": self.span.index} if self.span.name else {}

    @property
    def kept_steps(self) -> tuple[int, ...]:
        """Return the steps of the checkpoints that stages up to this one started from."""
        return tuple(one.checkpoint.step for one in self.earlier)

    def new_order(self, samples: Sequence[Sample], weights: Mapping[str, float]) -> Callable[[], SampleOrder]:
        """Return a function that makes an order of samples; each thread needs one of its own."""

        def make() -> SampleOrder:
            return SampleOrder(
                samples,
                seed=self.seed,
                recipe=self.recipe.training,
                weights=weights,
                first_step=self.span.first,
            )

        return make


def require_later_stages(recipe: Recipe, index: int, config: LlavaAvConfig) -> None:
    """Require that the model has the parts and layers that the stages after this one train.

    Without this check, a stage would fail only after the stages before it have been trained.

    Args:
        recipe: The whole recipe.
        index: Index of the stage.
        config: Config of the model, which is that of all stages.

    Raises:
        UserError: A stage trains or adapts what the model lacks.
    """
    for span in recipe.schedule.spans[index + 1 :]:
        try:
            with torch.device("meta"):
                model = LlavaAvForConditionalGeneration(copy.deepcopy(config))
                set_trained_weights(model, recipe.of_stage(span.index))
        except UserError as error:
            raise UserError(f"stage {span.name}: {error}") from error


def stage_seed(seed: int, index: int) -> int:
    """Return the seed of a stage; the first one has that of the recipe."""
    if not index:
        return seed
    # Within the bound of a recipe's seed.
    return int(np.random.default_rng([seed, index, 0x57A6E]).integers(2**53))


def stage_of_checkpoint(recipe: Recipe, run: Run, step: int) -> JobStage:
    """Return the stage whose training has written the checkpoint after `step` steps.

    Raises:
        UserError: The stages before it are not finished.
    """
    span, _ = recipe.schedule.at(step - 1)
    finished = finished_stages(run)
    if span.index > len(finished):
        raise UserError(
            f"run {run.id}: the model that stage {span.name} starts from is lost: train the run again"
        )
    return JobStage.at(recipe, span.index, finished)
