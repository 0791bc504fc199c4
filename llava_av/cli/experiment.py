"""`llava-av experiment`: the records that runs belong to."""

from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(help="Experiment records: what is expected, and what was seen.", no_args_is_help=True)


@app.command()
def new(name: Annotated[str, typer.Argument(help="Id of the record: lower-case words and dashes.")]) -> None:
    """Start a record from the template and say where it is."""
    raise NotImplementedError


@app.command("list")
def list_records() -> None:
    """Say which records there are."""
    raise NotImplementedError


@app.command()
def show(name: Annotated[str, typer.Argument(help="Id of the record.")]) -> None:
    """Print a record."""
    raise NotImplementedError
