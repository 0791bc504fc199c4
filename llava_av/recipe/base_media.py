"""Media settings of a base model: the defaults of a recipe that starts from it."""

from collections.abc import Mapping

from llava_av.recipe.media import MediaRecipe
from llava_av.recipe.recipe import Recipe

__all__ = ["media_differences", "with_media_of_base"]

# A model does not depend on the decoder.
_NAMES = tuple(name for name in MediaRecipe.model_fields if name != "decoder")


def with_media_of_base(recipe: Recipe, config: Mapping[str, object]) -> Recipe:
    """Return the recipe with the base model's value of each media setting that it does not set itself.

    Args:
        recipe: Recipe with a base model.
        config: Content of the model's config.json.

    Raises:
        RecipeError: A setting of the model is outside of a recipe's range; names it.
    """
    own = _settings(config)
    missing = [name for name in _NAMES if name not in recipe.media.model_fields_set]
    return recipe.with_overrides({f"media.{name}": own[name] for name in missing}) if missing else recipe


def media_differences(recipe: Recipe, config: Mapping[str, object]) -> tuple[str, ...]:
    """Return the media settings that differ from the base model's, each with both values on one line.

    Args:
        recipe: Recipe with a base model.
        config: Content of the model's config.json.
    """
    own, chosen = _settings(config), recipe.media.model_dump()
    return tuple(
        f"media.{name}={chosen[name]} (base model: {own[name]})"
        for name in _NAMES
        if chosen[name] != own[name]
    )


def _settings(config: Mapping[str, object]) -> dict[str, object]:
    """Return the media settings of a config.json, which leaves out defaults."""
    defaults = MediaRecipe().model_dump()
    return {name: config.get(name, defaults[name]) for name in _NAMES}
