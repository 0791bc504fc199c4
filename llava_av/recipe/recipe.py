"""Complete recipe: one frozen value with everything that a run depends on except code and data."""

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from llava_av.documents import problem_text, validate
from llava_av.recipe.data import DataRecipe
from llava_av.recipe.errors import RecipeError
from llava_av.recipe.evaluation import EvaluationRecipe
from llava_av.recipe.media import MediaRecipe
from llava_av.recipe.model import ALLOWED_WITH_BASE, ModelRecipe
from llava_av.recipe.optimizer import OptimizerRecipe
from llava_av.recipe.overriding import overridden
from llava_av.recipe.renaming import first_names
from llava_av.recipe.section import Section
from llava_av.recipe.stage import Stage, StageSchedule, stage_content, steps_of_stages
from llava_av.recipe.training import TrainingRecipe

__all__ = ["Recipe"]

_NAME = r"^[a-z0-9][a-z0-9.-]*$"
# The defaults, so that recipes with them keep the digests and run IDs that earlier versions gave them.
_SHARDING = {"num_processes": 2, "zero_stage": 2, "offload_optimizer": False}


class Recipe(Section):
    """Everything that a run depends on except code and data."""

    name: str = Field(pattern=_NAME)
    """Lower-case name."""
    registered_model: str | None = Field(default=None, pattern=_NAME)
    """Registered model that the run becomes a version of, so that it competes with its champion. If null, the
    model has the recipe's `name` after training on the demonstration dataset, and the name RECIPE-DATASET,
    such as `my-recipe-my-clips`, after training on any other dataset."""
    seed: int = Field(default=0, ge=0, le=2**53)
    """Seed of weights, data order and demonstration dataset."""
    model: ModelRecipe
    media: MediaRecipe = MediaRecipe()
    data: DataRecipe = DataRecipe()
    optimizer: OptimizerRecipe = OptimizerRecipe()
    stages: tuple[Stage, ...] = ()
    training: TrainingRecipe
    evaluation: EvaluationRecipe = EvaluationRecipe()

    @model_validator(mode="before")
    @classmethod
    def _sum_of_stages(cls, content: Any) -> Any:
        return steps_of_stages(content) if isinstance(content, Mapping) else content

    @model_validator(mode="after")
    def _stages_are_recipes(self) -> Self:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stages have the names {', '.join(names)}: give each another name")
        for index, stage in enumerate(self.stages):
            try:
                own = self.of_stage(index)
            except ValidationError as error:
                problem = problem_text(Recipe, error).removeprefix("the file: ")
                raise ValueError(f"stage {stage.name}: {problem}") from None
            if own.model.adapter is not None and index + 1 < len(names):
                raise ValueError(
                    f"stage {stage.name} trains model.adapter, but only the last stage can, because each "
                    f"stage starts from a whole model: set adapter to false in stage {stage.name}"
                )
        return self

    @model_validator(mode="after")
    def _parts_are_trained(self) -> Self:
        stages = [self.of_stage(index).model for index in range(len(self.stages))] or [self.model]
        trained = {part for model in stages for part in model.updated_parts}
        frozen = [name for name in self.optimizer.parts if name not in trained]
        if frozen:
            raise ValueError(
                f"optimizer.parts has {', '.join(frozen)}, not in model.trainable_parts or "
                "model.adapter.targets: add or remove it"
            )
        absent = [name for name in self.optimizer.parts if name in self.model.absent_parts]
        if absent:
            raise ValueError(f"optimizer.parts has {', '.join(absent)}, which the model lacks: remove it")
        return self

    def canonical_json(self) -> str:
        """Return the recipe as JSON with sorted keys: equal recipes have equal text."""
        return _canonical(self.model_dump(mode="json"))

    def stated(self) -> dict[str, Any]:
        """Return the recipe as JSON without what opening a run determines.

        These are the media settings that a base model has, and the number of steps if the recipe has epochs.
        """
        content = self._stated() if self.model.base else self.model_dump(mode="json")
        if any(stage.epochs is not None for stage in self.stages):
            del content["training"]["steps"]
        return content

    def stated_json(self) -> str:
        """Return `stated` as canonical JSON, which may become a run's recipe where the base model is read."""
        return _canonical(self.stated())

    def _stated(self) -> dict[str, Any]:
        """Return the recipe as JSON; of `media`, only the fields that were set."""
        return self.model_dump(mode="json") | {
            "media": self.media.model_dump(mode="json", exclude_unset=True)
        }

    def identity_json(self) -> str:
        """Return the canonical JSON with the field names of the first version, for digest and run ID.

        Neither changes when a field is renamed, or added with the earlier behaviour as its default, or with
        the sharding: a run continues on another number of processes, in another ZeRO stage, or with the
        optimizer elsewhere.
        """
        content = self.model_dump(mode="json")
        content["training"] |= _SHARDING
        return _canonical(first_names(content))

    def digest(self) -> str:
        """Return the sha256 of `identity_json`, in hex."""
        return hashlib.sha256(self.identity_json().encode()).hexdigest()

    def with_overrides(self, overrides: Mapping[str, object]) -> "Recipe":
        """Return a copy with values replaced by dotted path, such as `{"training.steps": 20}`.

        Raises:
            RecipeError: A field is unknown or a value is not allowed; the message names it.
        """
        content = overridden(Recipe, self._stated(), overrides)
        return validate(Recipe, content, where=f"recipe {self.name} with overrides", error=RecipeError)

    @property
    def schedule(self) -> StageSchedule:
        """Return the steps of each stage; a recipe without stages has a single one without a name."""
        return StageSchedule.of(self.stages, self.training.steps)

    def of_stage(self, index: int) -> "Recipe":
        """Return the recipe of one stage: its values in place of the whole recipe's, and no stages.

        A recipe without stages is that of its only one.
        """
        if not self.stages:
            return self
        return Recipe.model_validate(stage_content(self._stated(), self.stages[index]))

    def with_trained_base(self, address: str, digest: str) -> "Recipe":
        """Return the recipe with a base model that a stage of the same training has trained.

        Args:
            address: As `model.base`.
            digest: As `model.base_digest`.
        """
        content = self.model_dump(mode="json")
        kept = {name: content["model"][name] for name in ALLOWED_WITH_BASE}
        content["model"] = kept | {"base": address, "base_digest": digest}
        return Recipe.model_validate(content)

    def with_steps_of_epochs(self, samples: Mapping[str, int]) -> "Recipe":
        """Return the recipe with `steps` in place of its `epochs`, or of those of its stages.

        Args:
            samples: Number of training samples of each dataset of the run.
        """
        parts = {f"stages.{stage.name}": stage.epochs for stage in self.stages}
        parts = parts or {"training": self.training.epochs}
        changes: dict[str, object] = {}
        for index, (path, epochs) in enumerate(parts.items()):
            if epochs is not None:
                steps = self.of_stage(index)._steps_of_epochs(epochs, samples)
                changes |= {f"{path}.steps": steps, f"{path}.epochs": None}
        return self.with_overrides(changes) if changes else self

    @property
    def has_epochs(self) -> bool:
        """Return whether opening a run has to compute steps from epochs."""
        return self.training.epochs is not None or any(stage.epochs is not None for stage in self.stages)

    def _steps_of_epochs(self, epochs: float, samples: Mapping[str, int]) -> int:
        caps = {name: self.data.max_samples(name) for name in samples}
        count = sum(min(caps[name] or size, size) for name, size in samples.items())
        return max(1, math.ceil(epochs * count / self.training.global_batch_size))

    def require_used_adapter(self) -> None:
        """Require that the last of several stages trains the adapter, if the recipe has one.

        Raises:
            RecipeError: No stage trains it.
        """
        if self.model.adapter is not None and self.stages and not self.stages[-1].adapter:
            raise RecipeError(
                "no stage trains model.adapter: remove adapter=false from the last stage, "
                f"{self.stages[-1].name}, or set model.adapter to null"
            )

    def require_datasets(self, names: Collection[str]) -> None:
        """Require that `data.mix` of the recipe, or of each stage, fits the datasets of a run.

        Raises:
            RecipeError: It names another dataset, or gives weights to some datasets only.
        """
        for index, span in enumerate(self.schedule.spans):
            try:
                self.of_stage(index).data.require_datasets(names)
            except RecipeError as error:
                raise RecipeError(f"stage {span.name}: {error}" if span.name else str(error)) from None


def _canonical(content: Mapping[str, object]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))
