"""`llava-av run`: run the whole pipeline on a user's own data."""

from typing import Annotated

import typer

from llava_av.cli.options import (
    COMMITTED_DATASETS,
    AsJson,
    DatasetNameOption,
    EngineName,
    ExperimentName,
    OutputDir,
    Overrides,
    ProfileSteps,
    RecipeArgument,
    SeedOption,
    chosen_recipe,
)
from llava_av.workflows.runtime.workspace import DEFAULT_FOLDER

__all__ = ["run"]


def run(
    recipe: RecipeArgument,
    dataset: Annotated[
        str,
        typer.Option(
            metavar="DATASET",
            help=f"Folder to commit, with conversations.jsonl and its media; or {COMMITTED_DATASETS}.",
        ),
    ],
    dataset_name: DatasetNameOption = "",
    output_dir: OutputDir = DEFAULT_FOLDER,
    seed: SeedOption = None,
    engine: EngineName = None,
    overrides: Overrides = None,
    experiment: ExperimentName = "",
    gate: Annotated[
        bool, typer.Option("--gate/--no-gate", help="Judge the model by its record and gate.")
    ] = True,
    profile_steps: ProfileSteps = 0,
    as_json: AsJson = False,
) -> None:
    """Run the whole pipeline on your data: commit, train, register, evaluate, gate and report.

    Exit with 1 if the model fails the gate or an expectation of its record, with 0 if it becomes challenger.
    """
    chosen = chosen_recipe(recipe, seed=seed, engine=engine, overrides=overrides)
    from llava_av.cli.pipeline_run import PipelineRequest, run_here

    request = PipelineRequest(
        recipe=chosen,
        dataset=dataset,
        dataset_name=dataset_name,
        experiment=experiment,
        gate=gate,
        profile_steps=profile_steps,
    )
    raise typer.Exit(run_here(request, output_dir, as_json=as_json))
