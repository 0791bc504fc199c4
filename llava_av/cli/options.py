"""Options that several commands share, and the recipe and job target that they select."""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llava_av.errors import UserError

if TYPE_CHECKING:
    from llava_av.recipe import Recipe
    from llava_av.workflows.runtime.job_target import JobTarget

__all__ = [
    "COMMITTED_DATASETS",
    "LOCAL_PROFILE",
    "AllowIncompleteRecord",
    "AsJson",
    "DatasetNameOption",
    "DeviceOption",
    "DtypeOption",
    "EngineName",
    "ExperimentName",
    "LauncherName",
    "OutputDir",
    "Overrides",
    "ProfileChanges",
    "ProfileName",
    "ProfileSteps",
    "RecipeArgument",
    "RunIdArgument",
    "SeedOption",
    "VersionArgument",
    "chosen_recipe",
    "chosen_target",
    "parsed_overrides",
]

_LOG = logging.getLogger(__name__)

LOCAL_PROFILE = "cpu"
"""Default of `--profile`."""
COMMITTED_DATASETS = "committed datasets as NAME (the newest commit) or NAME@COMMIT, separated by commas"
"""Part of the help of every `--dataset` that accepts committed datasets."""
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
OutputDir = Annotated[
    Path, typer.Option("--output-dir", help="Folder for state, logs and results.", show_default=True)
]
RecipeArgument = Annotated[str, typer.Argument(help="Name or YAML file of a recipe.")]
DatasetNameOption = Annotated[
    str, typer.Option("--dataset-name", help="Name of the dataset (default: the folder's name).")
]
DeviceOption = Annotated[
    str, typer.Option("--device", help="cpu, cuda, cuda:N, mps, or auto, which prefers a GPU.")
]
DtypeOption = Annotated[
    Literal["auto", "float32", "bfloat16"],
    typer.Option("--dtype", help="Type of the weights; auto: that of the training."),
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", help="Seed of weights and order (default: the recipe's).")
]
EngineName = Annotated[
    str | None,
    typer.Option("--engine", help="deepspeed or torch (default: the recipe's; torch on macOS)."),
]
ExperimentName = Annotated[
    str,
    typer.Option(
        "--experiment", help="Experiment record (default: dryrun for the demonstration, else own-data)."
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a field of the recipe; may be repeated."),
]
LauncherName = Annotated[str, typer.Option("--launcher", help="Job target: local or kubernetes.")]
ProfileName = Annotated[
    str, typer.Option("--profile", help="Job profile for kubernetes: a name, such as gpu-8, or a YAML file.")
]
ProfileChanges = Annotated[
    list[str] | None,
    typer.Option("--job", metavar="KEY=VALUE", help="Override a field of the job profile; may be repeated."),
]
ProfileSteps = Annotated[
    int,
    typer.Option(
        "--profile-steps",
        metavar="STEPS",
        min=0,
        help="Profile this many steps: write a trace and a table of where the time of a step goes.",
    ),
]
AllowIncompleteRecord = Annotated[
    bool,
    typer.Option(
        "--allow-incomplete-record",
        help="Accept an incomplete experiment record, and mark the run.",
    ),
]
RunIdArgument = Annotated[str, typer.Argument(metavar="RUN", help="Run ID, as `train` prints it.")]
VersionArgument = Annotated[
    str, typer.Argument(metavar="VERSION", help="models:/NAME/VERSION or models:/NAME@ALIAS.")
]


def chosen_recipe(
    name: str,
    *,
    seed: int | None = None,
    engine: str | None = None,
    overrides: list[str] | None = None,
    for_cluster: bool = False,
) -> "Recipe":
    """Return a recipe with the command line's overrides.

    Args:
        name: Name, path or JSON text.
        seed: Seed; None for the recipe's.
        engine: Engine; None for the recipe's.
        overrides: `KEY=VALUE` each.
        for_cluster: True if the job runs elsewhere, so that limits of this machine do not matter.

    Raises:
        RecipeError: The recipe or a field is unknown, or a value is not allowed.
        UserError: An override is not KEY=VALUE.
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


def chosen_target(
    launcher: str, profile: str, changes: list[str] | None, environment: Mapping[str, str] | None = None
) -> "JobTarget":
    """Return the job target that the command line selects.

    Args:
        launcher: Name of the launcher.
        profile: Name or file of the job profile.
        changes: Fields of the profile to replace, `KEY=VALUE` each.
        environment: Further variables of jobs on a cluster.

    Raises:
        LaunchError: The launcher is unknown.
        ProfileError: The profile or a field is unknown, or a value is not allowed.
        UserError: A change is not KEY=VALUE.
    """
    from llava_av.workflows.runtime.job_target import LOCAL_TARGET, resolve_job_target

    if launcher == LOCAL_TARGET.launcher and (changes or profile != LOCAL_PROFILE):
        given = f"--job {changes[0]}" if changes else f"--profile {profile}"
        _LOG.warning(
            "%s is not used, as the job runs on this machine: add --launcher kubernetes, or remove it "
            "(--profile-steps profiles the steps of a training)",
            given,
        )
    added = {f"environment.{name}": value for name, value in (environment or {}).items()}
    return resolve_job_target(launcher, profile, parsed_overrides(changes, "--job") | added)


def parsed_overrides(texts: list[str] | None, option: str) -> dict[str, object]:
    """Parse texts of the form KEY=VALUE with YAML values.

    Raises:
        UserError: A text is not KEY=VALUE.
    """
    return dict(_parsed(text, option) for text in texts or [])


def _parsed(text: str, option: str) -> tuple[str, Any]:
    from llava_av.parsing import SyntaxProblemError, parse_yaml

    key, equals, value = text.partition("=")
    if not key or not equals:
        raise UserError(f"{option} {text}: give {option} KEY=VALUE")
    try:
        return key, parse_yaml(value)
    except SyntaxProblemError:
        return key, value
