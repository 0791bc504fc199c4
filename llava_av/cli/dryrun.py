"""`llava-av dryrun`: run the whole pipeline on the demonstration dataset."""

from typing import Annotated

import typer

from llava_av.cli.options import AsJson, EngineName, ExperimentName, OutputDir, Overrides, ProfileSteps
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
        str | None,
        typer.Option(hidden=True, help="Earlier form of `llava-av run RECIPE --dataset DATASET`."),
    ] = None,
    dataset_name: Annotated[str, typer.Option(hidden=True, help="Name of the dataset.")] = "",
    recipe: Annotated[
        str | None,
        typer.Option(help="Name or YAML file of a recipe (default: dryrun; quick with --quick)."),
    ] = None,
    engine: EngineName = None,
    overrides: Overrides = None,
    experiment: ExperimentName = "",
    profile_steps: ProfileSteps = 0,
    as_json: AsJson = False,
) -> None:
    """Run the whole pipeline on the demonstration: data, training, registration, evaluation, gate and report.

    For your own data, use `llava-av run`. Exit with 1 if the gate fails.
    """
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
    raise typer.Exit(run_here(request, output_dir, as_json=as_json))
