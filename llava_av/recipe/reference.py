"""Reference of every field of a recipe in Markdown, generated from the models.

`python -m llava_av.recipe.reference docs/recipes.md` writes it below the marker line of that page.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from llava_av.recipe.parts import EARLIER_PARTS
from llava_av.recipe.recipe import Recipe
from llava_av.recipe.renaming import RENAMED_FIELDS, RENAMED_VALUES
from llava_av.recipe.section import Section

__all__ = ["page_with_reference"]

_MARKER = "<!-- Generated below by `python -m llava_av.recipe.reference docs/recipes.md`. -->"
_TYPES = {bool: "true or false", int: "integer", float: "number", str: "text", dict: "mapping"}
_BOUNDS = ((Ge, "ge", "≥"), (Gt, "gt", ">"), (Le, "le", "≤"), (Lt, "lt", "<"))


def page_with_reference(page: str) -> str:
    """Return a page in Markdown with the current reference below its marker line.

    Raises:
        ValueError: The page has no marker line.
    """
    text, marker, _ = page.partition(f"{_MARKER}\n")
    if not marker:
        raise ValueError(f"the page lacks the line {_MARKER}")
    return f"{text}{marker}\n{_reference()}"


def _reference() -> str:
    """Return a table of fields for the recipe and each of its sections, and one of earlier names."""
    sections = _sections(Recipe)
    parts = [_part("Top level", Recipe), *(_part(f"`{name}`", model) for name, model in sections)]
    return "\n".join([*parts, _earlier_names()])


def _sections(model: type[Section]) -> list[tuple[str, type[Section]]]:
    found = ((name, _section_in(field.annotation)) for name, field in model.model_fields.items())
    return [(name, section) for name, section in found if section is not None]


def _section_in(annotation: Any) -> type[Section] | None:
    """Return the section that a field holds, if it holds one."""
    inner = [one for one in (annotation, *get_args(annotation)) if isinstance(one, type)]
    return next((one for one in inner if issubclass(one, Section)), None)


def _part(heading: str, model: type[Section]) -> str:
    rows = [_row(name, field) for name, field in _fields(model)]
    head = "| field | type | default | range | meaning |\n| --- | --- | --- | --- | --- |"
    about = " ".join((model.__doc__ or "").split())
    return f"## {heading}\n{about}\n\n{head}\n" + "\n".join(rows) + "\n"


def _fields(model: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        section = _section_in(field.annotation)
        # Sections at the top level have a table of their own.
        if section is None or not section.section or model is not Recipe:
            yield f"{prefix}{name}", field
        if section is not None and not section.section:
            yield from _fields(section, f"{prefix}{name}.")


def _row(name: str, field: FieldInfo) -> str:
    meaning = " ".join((field.description or "").split())
    cells = [f"`{name}`", _type(field.annotation), _default(field), _range(field), meaning]
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _type(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return " or ".join(_type(one) for one in parts)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in parts)
    if origin is tuple:
        return f"list of {_type(parts[0])}"
    if annotation is NoneType:
        return "null"
    if hasattr(annotation, "__metadata__"):
        return _type(annotation.__origin__)
    return "mapping" if _section_in(annotation) else _TYPES[origin or annotation]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return f"`{json.dumps(field.default)}`"


def _range(field: FieldInfo) -> str:
    found = [
        f"{sign} {getattr(one, name):,}".removesuffix(".0")
        for one in field.metadata
        for kind, name, sign in _BOUNDS
        if isinstance(one, kind)
    ]
    found += [f"`{one.pattern}`" for one in field.metadata if getattr(one, "pattern", None)]
    return ", ".join(found)


def _earlier_names() -> str:
    rows = [f"| `{earlier}` | `{current}` |" for earlier, current in RENAMED_FIELDS.items()]
    rows += [
        f"| `model.train: [{old}]` | `model.trainable_parts: [{', '.join(new)}]` |"
        for old, new in EARLIER_PARTS.items()
    ]
    for path, values in RENAMED_VALUES.items():
        rows += [f"| `{path}: {old}` | `{path}: {new}` |" for old, new in values.items()]
    about = "Recipes and overrides with these names load with a warning; the next version will refuse them."
    head = "| earlier | current |\n| --- | --- |"
    return f"## Earlier names\n{about}\n\n{head}\n" + "\n".join(rows) + "\n"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(page_with_reference(path.read_text(encoding="utf-8")), encoding="utf-8")
