"""`llava-av init`: create a project."""

import logging
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["init"]

_LOG = logging.getLogger(__name__)


def init(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Folder of the project.")] = Path(),
    name: Annotated[
        str, typer.Option(help="Name of its recipe, record and dataset (default: the folder's name).")
    ] = "",
) -> None:
    """Create a project: recipe, experiment record, gate, GitHub workflow and example data."""
    from llava_av.workflows.create_project import create_project

    for path in create_project(folder, name):
        print(folder / path)
    _LOG.info("%s lists the commands to run next", folder / "README.md")
