"""Replacement of single values of a recipe by dotted path, such as `training.steps`."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from llava_av.documents import close_name, field_names
from llava_av.recipe.errors import RecipeError
from llava_av.recipe.renaming import current_overrides

__all__ = ["overridden"]

# Mappings whose keys a user chooses, such as parts of the model.
_MAPPINGS = ("parts", "mix")


def overridden(
    recipe: type[BaseModel], content: dict[str, Any], overrides: Mapping[str, object]
) -> dict[str, Any]:
    """Return a recipe as JSON with values replaced; the result is not validated.

    Args:
        recipe: Class of the recipe.
        content: The recipe as JSON.
        overrides: Value by dotted path; `stages.NAME.FIELD` is a field of the stage with this name.

    Raises:
        RecipeError: A path leads to no field, or `training.steps` of a recipe with stages is replaced; the
            message names it.
    """
    changes = current_overrides(overrides)
    earlier = content["stages"]
    for path, value in changes.items():
        *parents, leaf = path.split(".")
        node = _section(recipe, content, parents, leaf)
        if node is None:
            reason = _reason(recipe, content, path)
            raise RecipeError(f"recipe {content['name']}: cannot override {path!r}{reason}")
        node[leaf] = value
    if content["stages"]:
        _require_steps_of_stages(content, changes)
        # Computed again, because a stage may have other steps now.
        content["training"].pop("steps", None)
    elif any("steps" not in stage for stage in earlier) and "training.steps" not in changes:
        # A placeholder, as epochs of stages have no steps yet.
        content["training"].pop("steps", None)
    return content


def _section(
    recipe: type[BaseModel], content: dict[str, Any], parents: Sequence[str], leaf: str
) -> dict[str, Any] | None:
    """Return the section with the last field of a path; None if there is no such field.

    Fields on the path that are left out, because they are not set, are added.
    """
    node: Any = content
    for depth, name in enumerate(parents):
        above = parents[:depth]
        if above == ["stages"]:
            node = _stage(node, name)
        elif isinstance(node, dict):
            is_key = bool(above) and above[-1] in _MAPPINGS
            if name not in node and (is_key or name in field_names(recipe, above)):
                node[name] = {}
            node = node.get(name)
    if not isinstance(node, dict):
        return None
    # Fields of an entry of a mapping are checked by the recipe.
    is_entry = len(parents) > 1 and parents[-2] in _MAPPINGS
    is_mapping = bool(parents) and parents[-1] in _MAPPINGS
    is_field = not is_mapping and leaf in field_names(recipe, parents)
    return node if is_entry or is_field or leaf in node else None


def _stage(stages: Any, name: str) -> dict[str, Any] | None:
    found = (one for one in stages if isinstance(one, dict) and one.get("name") == name)
    return next(found, None) if isinstance(stages, list) else None


def _require_steps_of_stages(content: Mapping[str, Any], changes: Mapping[str, object]) -> None:
    if "training.steps" not in changes:
        return
    names = [f"stages.{one['name']}.steps" for one in content["stages"] if isinstance(one, dict)]
    raise RecipeError(
        f"recipe {content['name']}: cannot override 'training.steps', which is the sum of the steps of its "
        f"stages: set {', '.join(names)}"
    )


def _reason(recipe: type[BaseModel], data: Any, path: str) -> str:
    """Return why a dotted path cannot be overridden, and what to write in its place if that is known."""
    *parents, leaf = path.split(".")
    if parents[:1] == ["stages"] and _stage(data["stages"], parents[1] if parents[1:] else leaf) is None:
        names = ", ".join(one["name"] for one in data["stages"] if isinstance(one, dict))
        return f": the recipe has {f'the stages {names}' if names else 'no stages'}"
    for place, name in enumerate(parents, start=1):
        data = data.get(name, {}) if isinstance(data, dict) else {}
        if data is None and leaf in field_names(recipe, parents[:place]):
            whole = ".".join(parents[:place])
            return f": {whole} is null; set it as a whole, such as --set '{whole}={{{leaf}: …}}'"
    return f", which is not a field{_suggestion(recipe, path)}"


def _suggestion(recipe: type[BaseModel], path: str) -> str:
    """Return `; did you mean PATH?` if one name in a dotted path resembles a field at its place."""
    names = path.split(".")
    for place, name in enumerate(names):
        known = field_names(recipe, names[:place])
        close = None if name in known else close_name(name, known)
        if close:
            return f"; did you mean {'.'.join([*names[:place], close, *names[place + 1 :]])}?"
    return ""
