"""Recipes: one frozen value with everything that a run depends on except code and data.

`recipe` puts the sections together, one file each: `model` (a base model, with an `adapter` or without, or
the parts of a fresh one with their `connectors`), `media` (decoding), `data` (selection of samples),
`optimizer`, `training` (the loop) and `evaluation`. `stage` has the stages of a training, each of which
replaces some of these values. The base of all sections in `section` forbids unknown fields and accepts the
names of an earlier version, which `renaming` lists. `overriding` replaces values by dotted path, and
`base_media` takes the media settings of a base model that the recipe does not set itself. `recipe_reading`
finds a recipe by name, path or JSON text, `errors` defines `RecipeError`, and `reference` documents every
field for `docs/recipes.md`.
"""

from llava_av.recipe.adapter import AdapterRecipe
from llava_av.recipe.base_media import media_differences, with_media_of_base
from llava_av.recipe.data import DataRecipe, MixedDataset
from llava_av.recipe.errors import RecipeError
from llava_av.recipe.evaluation import EvaluationRecipe
from llava_av.recipe.media import MediaRecipe
from llava_av.recipe.model import ModelRecipe
from llava_av.recipe.optimizer import OptimizerRecipe, PartOptimizer
from llava_av.recipe.parts import PART_NAMES, PartName
from llava_av.recipe.recipe import Recipe
from llava_av.recipe.recipe_reading import load_recipe, named_recipes, shipped_base
from llava_av.recipe.renaming import (
    ADDED_FIELDS,
    RENAMED_FIELDS,
    RENAMED_VALUES,
    current_names,
    current_overrides,
    current_value,
)
from llava_av.recipe.stage import Stage, StageSchedule, StageSpan
from llava_av.recipe.training import TrainingRecipe

__all__ = [
    "ADDED_FIELDS",
    "PART_NAMES",
    "RENAMED_FIELDS",
    "RENAMED_VALUES",
    "AdapterRecipe",
    "DataRecipe",
    "EvaluationRecipe",
    "MediaRecipe",
    "MixedDataset",
    "ModelRecipe",
    "OptimizerRecipe",
    "PartName",
    "PartOptimizer",
    "Recipe",
    "RecipeError",
    "Stage",
    "StageSchedule",
    "StageSpan",
    "TrainingRecipe",
    "current_names",
    "current_overrides",
    "current_value",
    "load_recipe",
    "media_differences",
    "named_recipes",
    "shipped_base",
    "with_media_of_base",
]
