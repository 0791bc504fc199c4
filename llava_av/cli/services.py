"""`llava-av services`: keep the embedded servers open, to look into them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_av.cli.options import OutputDir
from llava_av.workflows.runtime.workspace import DEFAULT_FOLDER

if TYPE_CHECKING:
    from llava_av.services import ServicesStatus

__all__ = ["app"]

app = typer.Typer(help="Keep the embedded S3 and MLflow servers open.", no_args_is_help=True)


@app.command()
def up(
    output_dir: OutputDir = DEFAULT_FOLDER,
    mlflow_port: Annotated[
        int | None, typer.Option(help="Port of the MLflow pages; a free one if absent.")
    ] = None,
    s3_port: Annotated[int | None, typer.Option(help="Port of S3; a free one if absent.")] = None,
) -> None:
    """Start the servers on a folder's state, print their addresses, and leave them running."""
    from llava_av.services import services_up

    state = output_dir.absolute() / "state"
    _print(services_up(state, mlflow_port=mlflow_port, s3_port=s3_port), state)


@app.command()
def down(output_dir: OutputDir = DEFAULT_FOLDER) -> None:
    """Stop the servers of a folder."""
    from llava_av.services import services_down

    print("stopped" if services_down(output_dir.absolute() / "state") else "none were running")


@app.command()
def status(output_dir: OutputDir = DEFAULT_FOLDER) -> None:
    """Say whether the servers of a folder run, and where; exit 1 if they do not."""
    from llava_av.services import services_status

    state = output_dir.absolute() / "state"
    found = services_status(state)
    if found is None:
        print("not running")
        raise typer.Exit(1)
    _print(found, state)


def _print(status: "ServicesStatus", state: Path) -> None:
    print(f"MLflow  {status.mlflow}  user and password in {state / 'credentials.json'}")
    print(f"S3      {status.s3}  bucket {status.bucket}, keys in the same file")
    print(f"process {status.pid}; `llava-av services down` with the same --output-dir stops them")
