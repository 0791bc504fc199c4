"""`llava-av experiment`: the records that runs belong to."""

from pathlib import Path
from typing import Annotated

import typer

from llava_av.cli.options import OutputDir
from llava_av.steps.context import DEFAULT_FOLDER

__all__ = ["app"]

app = typer.Typer(help="Experiment records: what is expected, and what was seen.", no_args_is_help=True)
_Folder = Annotated[Path | None, typer.Option(help="Folder of the records; the checkout's if absent.")]


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Id of the record: lower-case words and dashes.")],
    title: Annotated[str, typer.Option(help="One line that says what is tried.")],
    parent: Annotated[str | None, typer.Option(help="Id of the record that it follows.")] = None,
    folder: _Folder = None,
) -> None:
    """Start a record from the template and say where it is."""
    from llava_av.experiments.records import experiments_folder, new_record

    print(new_record(folder or experiments_folder(), name, title, parent=parent))


@app.command("list")
def list_all(folder: _Folder = None) -> None:
    """Say which records there are, oldest first."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from llava_av.experiments.records import experiments_folder, list_records

    table = Table(box=None, pad_edge=False)
    for title in ("id", "created", "follows", "runs", "title"):
        table.add_column(title, overflow="fold")
    for record in list_records(folder or experiments_folder()):
        row = (
            record.id,
            record.created.isoformat(),
            record.parent or "",
            str(len(record.seen)),
            record.title,
        )
        table.add_row(*map(escape, row))
    Console().print(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Id of the record, or its Markdown file.")],
    folder: _Folder = None,
    output_dir: OutputDir = DEFAULT_FOLDER,
) -> None:
    """Print a record, with what the runs of an output folder saw if it has some."""
    from llava_av.experiments.records import load_record
    from llava_av.steps.context import Workspace

    path, record = load_record(name, folder)
    seen = Workspace(folder=output_dir.absolute()).experiments / f"{record.id}.md"
    print((seen if seen.is_file() else path).read_text(encoding="utf-8").rstrip())
