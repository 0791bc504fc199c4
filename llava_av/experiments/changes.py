"""Differences from the parent experiment, computed from recipes and datasets."""

import re
from collections.abc import Mapping
from typing import Any

from llava_av.recipe import ADDED_FIELDS, RENAMED_FIELDS, current_names, current_value
from llava_av.runs import Change

__all__ = ["changes_between", "current_line", "recipe_changes"]

_LINE = re.compile(r"`([^`]*)`: `([^`]*)` → `([^`]*)`")
_PYTHON = re.compile(r"\b(?:None|True|False)\b|'")
_YAML = {"None": "null", "True": "true", "False": "false", "'": '"'}


def current_line(line: str) -> str:
    """Return a line of `Change.line` by an earlier version under the current names and with YAML values."""
    found = _LINE.fullmatch(line)
    if found is None:
        return line
    what = RENAMED_FIELDS.get(found[1], found[1])
    before, after = (current_value(what, _yaml_text(value)) for value in found.group(2, 3))
    return Change(what=what, before=before, after=after).line()


def _yaml_text(text: str) -> str:
    """Return a value that an earlier version wrote as Python; names and numbers are the same in YAML."""
    is_python = text in _YAML or text.startswith(("[", "{"))
    return _PYTHON.sub(lambda found: _YAML[found[0]], text) if is_python else text


def recipe_changes(parent: Mapping[str, object], child: Mapping[str, object]) -> tuple[Change, ...]:
    """Return all values that differ between two recipes, sorted by path; names do not count.

    A field under its name of an earlier version equals the field under its current name, and one that an
    earlier version lacked has the value that it then had for all recipes.

    Args:
        parent: Recipe as JSON.
        child: The other recipe.
    """
    before, after = ({**ADDED_FIELDS, **_flat(_by_stage(current_names(one)))} for one in (parent, child))
    return tuple(
        Change(what=path, before=before.get(path), after=after.get(path))
        for path in sorted(before.keys() | after.keys())
        if path != "name" and before.get(path) != after.get(path)
    )


def changes_between(
    parent: tuple[Mapping[str, object], str], child: tuple[Mapping[str, object], str]
) -> tuple[Change, ...]:
    """Return all differences of recipe and dataset.

    Args:
        parent: Recipe as JSON, and dataset as `NAME` or `NAME@COMMIT`.
        child: The same of the other experiment.
    """
    changes = recipe_changes(parent[0], child[0])
    if parent[1] != child[1]:
        changes += (Change(what="dataset", before=parent[1], after=child[1]),)
    return changes


def _by_stage(recipe: Mapping[str, object]) -> Mapping[str, object]:
    """Return a recipe with its stages by name, as the paths of overrides have them."""
    stages = recipe.get("stages")
    if not isinstance(stages, list) or not stages:
        return recipe
    return {**recipe, "stages": {one["name"]: one for one in stages}}


def _flat(value: Any, path: str = "") -> dict[str, object]:
    if not isinstance(value, Mapping) or not value:
        return {path: value}
    parts = (_flat(inner, f"{path}.{key}" if path else str(key)) for key, inner in value.items())
    return {key: inner for part in parts for key, inner in part.items()}
