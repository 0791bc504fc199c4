"""`llava-av init`: create a project."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from llava_av.cli.display import print_json
from llava_av.cli.options import AsJson

__all__ = ["init"]

_LOG = logging.getLogger(__name__)


def init(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Folder of the project.")] = Path(),
    name: Annotated[
        str, typer.Option(help="Name of its recipe, record and dataset (default: the folder's name).")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Create a project: recipe, experiment record, gate, GitHub workflow and example data."""
    from llava_av.workflows.create_project import create_project

    paths = [str(folder / path) for path in create_project(folder, name)]
    if as_json:
        print_json(paths)
    else:
        print(*paths, sep="\n")
    _LOG.info("%s lists the commands to run next", folder / "README.md")
