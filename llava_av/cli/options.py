"""Options that several commands share, and how a recipe comes out of them."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llava_av.errors import UserError

if TYPE_CHECKING:
    from llava_av.recipe import Recipe

__all__ = ["EngineName", "OutputDir", "Overrides", "RunKey", "chosen_recipe"]

OutputDir = Annotated[
    Path, typer.Option("--output-dir", help="Folder of state, logs and results.", show_default=True)
]
EngineName = Annotated[
    str | None,
    typer.Option("--engine", help="deepspeed or torch; the recipe's unless given (torch on macOS)."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a field of the recipe; may be repeated."),
]
RunKey = Annotated[str, typer.Argument(metavar="RUN", help="Key of the run, as `train` prints it.")]


def chosen_recipe(
    name: str, *, seed: int | None = None, engine: str | None = None, overrides: list[str] | None = None
) -> "Recipe":
    """The recipe by name or path, with what the command line changes in it.

    Raises:
        RecipeError: an unknown recipe or field, or a value that is not allowed.
        UserError: an override that is not KEY=VALUE.
    """
    from llava_av.recipe import load_recipe

    changes: dict[str, Any] = dict(_parsed(text) for text in overrides or [])
    if seed is not None:
        changes["seed"] = seed
    if engine is None and sys.platform == "darwin" and "training.engine" not in changes:
        engine = "torch"  # DeepSpeed cannot be installed there
    if engine is not None:
        changes["training.engine"] = engine
    return load_recipe(name).with_overrides(changes)


def _parsed(text: str) -> tuple[str, Any]:
    import yaml

    key, equals, value = text.partition("=")
    if not key or not equals:
        raise UserError(f"--set {text}: give KEY=VALUE, such as training.steps=100")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        return key, value
