"""`llava-av dryrun`: run the whole pipeline on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from llava_av.cli.options import EngineName, OutputDir, Overrides, ProfileSteps
from llava_av.workflows.runtime.workspace import DEFAULT_FOLDER

__all__ = ["dryrun"]


def dryrun(
    output_dir: OutputDir = DEFAULT_FOLDER,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Only check that all parts work; the model trains too little to pass the gate."
        ),
    ] = False,
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of data, weights and order (default: the recipe's)."),
    ] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(
            help="Dataset: a folder to commit, with conversations.jsonl and its media (default: demo)."
        ),
    ] = None,
    dataset_name: Annotated[str, typer.Option(help="Name of the dataset (default: the folder's name).")] = "",
    recipe: Annotated[
        str | None,
        typer.Option(help="Name or YAML file of a recipe (default: dryrun; quick with --quick)."),
    ] = None,
    engine: EngineName = None,
    overrides: Overrides = None,
    experiment: Annotated[str, typer.Option(help="Experiment record that the run belongs to.")] = "dryrun",
    profile_steps: ProfileSteps = 0,
) -> None:
    """Run the whole pipeline on this machine: data, training, registration, evaluation, gate and report."""
    from llava_av.cli.options import chosen_recipe
    from llava_av.cli.pipeline_run import PipelineRequest, run_here

    chosen = chosen_recipe(
        recipe or ("quick" if quick else "dryrun"), seed=seed, engine=engine, overrides=overrides
    )
    request = PipelineRequest(
        recipe=chosen,
        dataset=dataset,
        dataset_name=dataset_name,
        experiment=experiment,
        gate=not quick,
        profile_steps=profile_steps,
    )
    raise typer.Exit(run_here(request, output_dir))
