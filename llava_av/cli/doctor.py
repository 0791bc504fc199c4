"""`llava-av doctor`: check this machine's requirements."""

from dataclasses import asdict

import typer

from llava_av.cli.options import AsJson, OutputDir
from llava_av.workflows.runtime.workspace import DEFAULT_FOLDER

__all__ = ["doctor"]


def doctor(output_dir: OutputDir = DEFAULT_FOLDER, as_json: AsJson = False) -> None:
    """Check that this machine meets the requirements; exit with 1 if the dry run needs a missing one."""
    from rich.table import Table

    from llava_av.cli.display import print_json, result_console
    from llava_av.cli.doctor_checks import examine

    table = Table(box=None, pad_edge=False)
    for title in ("", "", "found", "what to do"):
        table.add_column(title, overflow="fold")
    findings = examine(output_dir)
    for row in findings:
        mark = "[green]ok[/]" if row.ok else "[red]missing[/]" if row.needed else "[yellow]optional[/]"
        table.add_row(row.name, mark, _plain(row.detail), _plain(row.action))
    if as_json:
        print_json([asdict(row) for row in findings])
    else:
        result_console().print(table)
    raise typer.Exit(1 if any(row.needed and not row.ok for row in findings) else 0)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
