"""`llava-av services`: keep the embedded servers open, to look into them."""

from pathlib import Path
from typing import Annotated

import typer

from llava_av.cli.options import OutputDir

__all__ = ["app"]

app = typer.Typer(help="Keep the embedded S3 and MLflow servers open.", no_args_is_help=True)
_DEFAULT = Path("dryrun-outputs")


@app.command()
def up(
    output_dir: OutputDir = _DEFAULT,
    mlflow_port: Annotated[
        int | None, typer.Option(help="Port of the MLflow pages; a free one if absent.")
    ] = None,
    s3_port: Annotated[int | None, typer.Option(help="Port of S3; a free one if absent.")] = None,
) -> None:
    """Start the servers on a folder's state, print their addresses, and leave them running."""
    from llava_av.services import services_up

    print(services_up(output_dir.absolute() / "state", mlflow_port=mlflow_port, s3_port=s3_port))


@app.command()
def down(output_dir: OutputDir = _DEFAULT) -> None:
    """Stop the servers of a folder."""
    from llava_av.services import services_down

    print(services_down(output_dir.absolute() / "state"))


@app.command()
def status(output_dir: OutputDir = _DEFAULT) -> None:
    """Say whether the servers of a folder run, and where."""
    from llava_av.services import services_status

    print(services_status(output_dir.absolute() / "state"))
