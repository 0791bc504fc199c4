"""`llava-av dryrun`: the whole pipeline on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from llava_av.cli.options import EngineName, OutputDir, Overrides
from llava_av.workflows.runtime.workspace import DEFAULT_FOLDER

__all__ = ["dryrun"]


def dryrun(
    output_dir: OutputDir = DEFAULT_FOLDER,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Only check that all parts work: trains too little to pass the gate."),
    ] = False,
    seed: Annotated[
        int | None, typer.Option(help="Seed of data, weights and order; the recipe's if absent.")
    ] = None,
    dataset: Annotated[
        Path | None, typer.Option(help="Your own folder with conversations.jsonl and its media.")
    ] = None,
    dataset_name: Annotated[
        str, typer.Option(help="Name to commit the folder under; the folder's if absent.")
    ] = "",
    recipe: Annotated[
        str | None, typer.Option(help="Name or YAML file; `dryrun`, or `quick` with --quick, if absent.")
    ] = None,
    engine: EngineName = None,
    overrides: Overrides = None,
    experiment: Annotated[str, typer.Option(help="Experiment record that the run belongs to.")] = "dryrun",
) -> None:
    """Data, training, checkpoint, registration, evaluation, gate and report: all of it, once, here."""
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
    )
    raise typer.Exit(run_here(request, output_dir))
