"""`llava-av services`: run the embedded servers in the background, for example to use their web pages."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_av.cli.display import print_json
from llava_av.cli.options import AsJson, OutputDir
from llava_av.errors import UserError
from llava_av.workflows.runtime.workspace import DEFAULT_FOLDER

if TYPE_CHECKING:
    from llava_av.services import ServicesStatus

__all__ = ["app"]

app = typer.Typer(help="Start and stop the embedded S3 and MLflow servers.", no_args_is_help=True)


@app.command()
def up(
    output_dir: OutputDir = DEFAULT_FOLDER,
    mlflow_port: Annotated[int | None, typer.Option(help="Port of MLflow (default: a free one).")] = None,
    s3_port: Annotated[int | None, typer.Option(help="Port of S3 (default: a free one).")] = None,
    create: Annotated[
        bool, typer.Option("--create", help="Create empty servers if the folder has none.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Start the servers of an output folder in the background, and print their addresses."""
    from llava_av.services import services_up

    state = output_dir.absolute() / "state"
    if not create and not state.is_dir():
        raise UserError(
            f"{output_dir} has no store: name a run's folder with --output-dir, or add --create to make one"
        )
    _print(services_up(state, mlflow_port=mlflow_port, s3_port=s3_port), state, as_json=as_json)


@app.command()
def down(output_dir: OutputDir = DEFAULT_FOLDER, as_json: AsJson = False) -> None:
    """Stop the servers of an output folder."""
    from llava_av.services import services_down

    stopped = services_down(output_dir.absolute() / "state")
    if as_json:
        print_json({"stopped": stopped})
    else:
        print("stopped" if stopped else "none were running")


@app.command()
def status(output_dir: OutputDir = DEFAULT_FOLDER, as_json: AsJson = False) -> None:
    """Print the addresses of an output folder's servers; exit with 1 if they are not running."""
    from llava_av.services import services_status

    state = output_dir.absolute() / "state"
    found = services_status(state)
    if found is None:
        print("null" if as_json else "not running")
        raise typer.Exit(1)
    _print(found, state, as_json=as_json)


def _print(status: "ServicesStatus", state: Path, *, as_json: bool) -> None:
    if as_json:
        print_json({**asdict(status), "credentials": str(state / "credentials.json")})
        return
    print(f"MLflow  {status.mlflow}  user and password in {state / 'credentials.json'}")
    print(f"S3      {status.s3}  bucket {status.bucket}, keys in the same file")
    print(f"process {status.pid}; `llava-av services down` with the same --output-dir stops them")
