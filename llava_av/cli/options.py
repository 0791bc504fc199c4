"""Options that several commands share, and how a recipe comes out of them."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llava_av.errors import UserError

if TYPE_CHECKING:
    from llava_av.recipe import Recipe
    from llava_av.workflows.runtime.job_target import JobTarget

__all__ = [
    "AllowIncompleteRecord",
    "EngineName",
    "LauncherName",
    "OutputDir",
    "Overrides",
    "ProfileChanges",
    "ProfileName",
    "RunKey",
    "chosen_recipe",
    "chosen_target",
    "parsed_overrides",
]

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
LauncherName = Annotated[str, typer.Option("--launcher", help="Where jobs run: local or kubernetes.")]
ProfileName = Annotated[
    str, typer.Option("--profile", help="Of jobs on a cluster: name in k8s/profiles, or a file.")
]
ProfileChanges = Annotated[
    list[str] | None,
    typer.Option("--job", metavar="KEY=VALUE", help="Override a field of the profile; may be repeated."),
]
AllowIncompleteRecord = Annotated[
    bool,
    typer.Option(
        "--allow-incomplete-record",
        help="Go on although the experiment record lacks something; the run is marked.",
    ),
]
RunKey = Annotated[str, typer.Argument(metavar="RUN", help="Key of the run, as `train` prints it.")]


def chosen_recipe(
    name: str,
    *,
    seed: int | None = None,
    engine: str | None = None,
    overrides: list[str] | None = None,
    for_cluster: bool = False,
) -> "Recipe":
    """The recipe by name or path, with what the command line changes in it.

    Args:
        name: Name, path or JSON text.
        seed: Another seed.
        engine: Another engine.
        overrides: `KEY=VALUE` each.
        for_cluster: Whether it runs elsewhere, so that what this machine lacks changes nothing.

    Raises:
        RecipeError: an unknown recipe or field, or a value that is not allowed.
        UserError: an override that is not KEY=VALUE.
    """
    from llava_av.recipe import load_recipe

    changes = parsed_overrides(overrides, "--set")
    if seed is not None:
        changes["seed"] = seed
    given = engine is not None or "training.engine" in changes
    if not given and sys.platform == "darwin" and not for_cluster:
        engine = "torch"  # DeepSpeed cannot be installed there
    if engine is not None:
        changes["training.engine"] = engine
    return load_recipe(name).with_overrides(changes)


def chosen_target(launcher: str, profile: str, changes: list[str] | None) -> "JobTarget":
    """Where jobs run, as the command line says.

    Raises:
        ProfileError: an unknown profile or field, or a value that is not allowed.
        UserError: a change that is not KEY=VALUE.
    """
    from llava_av.workflows.runtime.job_target import resolve_job_target

    return resolve_job_target(launcher, profile, parsed_overrides(changes, "--job"))


def parsed_overrides(texts: list[str] | None, option: str) -> dict[str, Any]:
    """`KEY=VALUE` each, values as YAML.

    Raises:
        UserError: one is not KEY=VALUE.
    """
    return dict(_parsed(text, option) for text in texts or [])


def _parsed(text: str, option: str) -> tuple[str, Any]:
    from llava_av.parsing import SyntaxProblemError, parse_yaml

    key, equals, value = text.partition("=")
    if not key or not equals:
        raise UserError(f"{option} {text}: give KEY=VALUE, such as training.steps=100")
    try:
        return key, parse_yaml(value)
    except SyntaxProblemError:
        return key, value
