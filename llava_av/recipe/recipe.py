"""Complete recipe: one frozen value with everything that a run depends on except code and data."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from llava_av.documents import close_name, field_names, validate
from llava_av.recipe.data import DataRecipe
from llava_av.recipe.errors import RecipeError
from llava_av.recipe.evaluation import EvaluationRecipe
from llava_av.recipe.media import MediaRecipe
from llava_av.recipe.model import ModelRecipe
from llava_av.recipe.optimizer import OptimizerRecipe
from llava_av.recipe.renaming import current_overrides, first_names
from llava_av.recipe.section import Section
from llava_av.recipe.training import TrainingRecipe

__all__ = ["Recipe"]

# The defaults, so that recipes with them keep the digests and run IDs that earlier versions gave them.
_SHARDING = {"num_processes": 2, "zero_stage": 2, "offload_optimizer": False}


class Recipe(Section):
    """Everything that a run depends on except code and data."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    """Lower-case name. The registered model has this name after training on the demonstration dataset, and
    the name RECIPE-DATASET, such as `my-recipe-my-clips`, after training on any other dataset."""
    seed: int = Field(default=0, ge=0, le=2**53)
    """Seed of weights, data order and demonstration dataset."""
    model: ModelRecipe
    media: MediaRecipe = MediaRecipe()
    data: DataRecipe = DataRecipe()
    optimizer: OptimizerRecipe = OptimizerRecipe()
    training: TrainingRecipe
    evaluation: EvaluationRecipe = EvaluationRecipe()

    @model_validator(mode="after")
    def _parts_are_trained(self) -> Self:
        frozen = [name for name in self.optimizer.parts if name not in self.model.updated_parts]
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
        """Return the recipe as JSON without the media settings that a base model is to determine."""
        return self._stated() if self.model.base else self.model_dump(mode="json")

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
        data = self._stated()
        for path, value in current_overrides(overrides).items():
            *parents, leaf = path.split(".")
            node: Any = data
            if parents[:2] == ["optimizer", "parts"] and len(parents) == 3:
                # Parts without settings of their own are not there yet.
                node["optimizer"]["parts"].setdefault(parents[2], {}).setdefault(leaf, None)
            if parents[:2] == ["data", "mix"] and len(parents) == 3:
                node["data"]["mix"].setdefault(parents[2], {}).setdefault(leaf, None)
            if parents == ["media"] and leaf in MediaRecipe.model_fields:
                node["media"].setdefault(leaf, None)
            for parent in parents:
                node = node.get(parent) if isinstance(node, dict) else None
            if not isinstance(node, dict) or leaf not in node:
                raise RecipeError(f"recipe {self.name}: cannot override {path!r}{_reason(data, path)}")
            node[leaf] = value
        return validate(Recipe, data, where=f"recipe {self.name} with overrides", error=RecipeError)


def _reason(data: Any, path: str) -> str:
    """Return why a dotted path cannot be overridden, and what to write in its place if that is known."""
    *parents, leaf = path.split(".")
    for place, name in enumerate(parents, start=1):
        data = data.get(name, {}) if isinstance(data, dict) else {}
        if data is None and leaf in field_names(Recipe, parents[:place]):
            whole = ".".join(parents[:place])
            return f": {whole} is null; set it as a whole, such as --set '{whole}={{{leaf}: …}}'"
    return f", which is not a field{_suggestion(path)}"


def _suggestion(path: str) -> str:
    """Return `; did you mean PATH?` if one name in a dotted path resembles a field at its place."""
    names = path.split(".")
    for place, name in enumerate(names):
        known = field_names(Recipe, names[:place])
        close = None if name in known else close_name(name, known)
        if close:
            return f"; did you mean {'.'.join([*names[:place], close, *names[place + 1 :]])}?"
    return ""


def _canonical(content: Mapping[str, object]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))
