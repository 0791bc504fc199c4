"""Reading of recipes by path, by name or from JSON text."""

from collections.abc import Mapping
from pathlib import Path

from llava_av.documents import read_document, validate
from llava_av.named_files import FileKind, default_folder, named_folders
from llava_av.recipe.errors import RecipeError
from llava_av.recipe.recipe import Recipe
from llava_av.recipe.renaming import warn_of_earlier_names

__all__ = ["load_recipe", "named_recipes", "shipped_base"]


def named_recipes() -> dict[str, str]:
    """Return the first comment of each recipe of the project and of the package, by name."""
    folders = reversed(named_folders(FileKind.RECIPES))
    paths = {path.stem: path for folder in folders for path in folder.glob("*.yaml")}
    return {name: _first_comment(paths[name]) for name in sorted(paths)}


def shipped_base(address: str) -> Path | None:
    """Return the folder with the config of a base model that is absent, if it comes with the recipes.

    Args:
        address: As `model.base`.
    """
    folder = default_folder(FileKind.RECIPES) / "bases" / Path(address).name
    is_absent = not address.startswith("s3://") and not Path(address).is_dir()
    return folder if is_absent and folder.is_dir() else None


def load_recipe(given: str, *, above: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe by path, by name from the project or the package, or from JSON text.

    A recipe may start from another: `base` names it, and `overrides` maps dotted paths to new values. Field
    names of an earlier version are accepted with a warning.

    Args:
        given: Path, name or JSON text.
        above: Recipes that start from this one, outermost first.

    Raises:
        RecipeError: The recipe does not exist or does not parse, a field is not allowed, or recipes
            start from each other.
    """
    if given in above:
        raise RecipeError(f"recipe {given} starts from itself: {' -> '.join([*above, given])}")
    folders = named_folders(FileKind.RECIPES)
    document = read_document(given, kind="recipe", folders=folders, error=RecipeError)
    content = document.content
    if isinstance(content, Mapping):
        if document.path is not None and "base" in content:
            return _derived(content, document.path, (*above, given))
        warn_of_earlier_names(content)
    return validate(Recipe, content, where=document.where, error=RecipeError)


def _derived(content: Mapping[str, object], path: Path, above: tuple[str, ...]) -> Recipe:
    overrides = content.get("overrides")
    unknown = sorted(map(str, set(content) - {"base", "overrides", "name"}))
    if unknown or not isinstance(overrides, dict) or not isinstance(content["base"], str):
        problem = f"unknown field {unknown[0]}" if unknown else "base must be a name and overrides a mapping"
        raise RecipeError(f"recipe {path}: {problem}; a recipe with base has only base, name and overrides")
    return load_recipe(content["base"], above=above).with_overrides(
        {"name": content.get("name", path.stem), **{str(name): value for name, value in overrides.items()}}
    )


def _first_comment(path: Path) -> str:
    first, *_ = path.read_text(encoding="utf-8").splitlines() or [""]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
