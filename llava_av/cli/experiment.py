"""`llava-av experiment`: the records that runs belong to."""

from pathlib import Path
from typing import Annotated

import typer

from llava_av.cli.options import OutputDir
from llava_av.steps.context import DEFAULT_FOLDER, Workspace

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
def list_all(folder: _Folder = None, output_dir: OutputDir = DEFAULT_FOLDER) -> None:
    """Say which records there are, oldest first, and how many runs of the output folder each has seen."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from llava_av.experiments.records import experiments_folder, list_records, read_record

    table = Table(box=None, pad_edge=False)
    for title in ("id", "created", "follows", "runs", "title"):
        table.add_column(title, overflow="fold")
    for record in list_records(folder or experiments_folder()):
        copy = _copy_with_runs(output_dir, record.id)
        seen = read_record(copy).seen if copy.is_file() else record.seen
        row = (
            record.id,
            record.created.isoformat(),
            record.parent or "",
            str(len(seen)),
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

    path, record = load_record(name, folder)
    seen = _copy_with_runs(output_dir, record.id)
    print((seen if seen.is_file() else path).read_text(encoding="utf-8").rstrip())


def _copy_with_runs(output_dir: Path, record_id: str) -> Path:
    """The output folder's copy of a record, which its runs write to."""
    return Workspace(folder=output_dir.absolute()).experiments / f"{record_id}.md"
