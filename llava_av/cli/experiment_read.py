"""`llava-av experiment list`, `show`, `search` and `graph`: reading of experiment records."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_av.cli.display import print_json, print_rows
from llava_av.cli.options import AsJson, OutputDir
from llava_av.workflows.runtime.workspace import DEFAULT_FOLDER, Workspace

if TYPE_CHECKING:
    from llava_av.experiments.overview import ExperimentNode

__all__ = ["RecordFolder", "RecordName", "copy_with_runs", "graph", "list_all", "search", "show"]

RecordFolder = Annotated[
    Path | None, typer.Option(help="Folder of the records (default: the project's, then the package's).")
]
RecordName = Annotated[str, typer.Argument(help="ID of the record, or its Markdown file.")]


class _Part(StrEnum):
    """A part of a record that `show` can print alone."""

    RECIPE = "recipe"
    DATASET = "dataset"
    SEEN = "seen"


def list_all(
    folder: RecordFolder = None, output_dir: OutputDir = DEFAULT_FOLDER, as_json: AsJson = False
) -> None:
    """List the records with their outcomes, oldest first."""
    nodes = sorted(_tree(folder, output_dir), key=lambda node: (node.record.created, node.record.id))
    if as_json:
        print_json([node.model_dump(mode="json") for node in nodes])
        return
    columns = ("id", "created", "follows", "runs", "outcome", "title")
    rows = [
        (
            node.record.id,
            node.record.created.isoformat(),
            node.record.parent or "",
            str(len(node.runs)),
            node.words,
            node.record.title,
        )
        for node in nodes
    ]
    print_rows(columns, rows)


def show(
    name: RecordName,
    folder: RecordFolder = None,
    output_dir: OutputDir = DEFAULT_FOLDER,
    part: Annotated[_Part | None, typer.Option(help="Print only this part, for scripts.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print a record, including the observed values of the output folder's runs."""
    from llava_av.experiments.outcomes import TABLE_HEAD
    from llava_av.experiments.records import load_record, read_record

    path, record = load_record(name, folder, draft=True)
    copy = copy_with_runs(output_dir, record.id)
    path = copy if copy.is_file() else path
    if as_json:
        shown = read_record(path, draft=True).model_dump(mode="json")
        print_json(shown if part is None else shown["observed" if part is _Part.SEEN else part])
    elif part is None:
        print(path.read_text(encoding="utf-8").rstrip())
    elif part is _Part.SEEN:
        observed = read_record(path, draft=True).observed
        print(*(TABLE_HEAD if observed else ()), *observed, sep="\n")
    else:
        print(getattr(record, part) or "")


def search(
    words: Annotated[list[str], typer.Argument(help="Words that must all occur.")],
    folder: RecordFolder = None,
    as_json: AsJson = False,
) -> None:
    """Search lessons, rationales and hypotheses; exit with 1 if nothing is found."""
    from llava_av.experiments.overview import search_records
    from llava_av.experiments.records import experiments_folder, list_records

    found = search_records(list_records(folder or experiments_folder()), words)
    if as_json:
        print_json([hit.model_dump(mode="json") for hit in found])
    else:
        for hit in found:
            print(f"{hit.id} · {hit.section}: {hit.text}")
    if not found:
        raise typer.Exit(1)


def graph(
    folder: RecordFolder = None,
    output_dir: OutputDir = DEFAULT_FOLDER,
    draw: Annotated[Path | None, typer.Option(help="File to draw the tree to: .svg or .html.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print the tree of experiments with their outcomes."""
    from rich.markup import escape
    from rich.tree import Tree

    from llava_av.cli.display import result_console

    nodes = _tree(folder, output_dir)
    if draw is not None:
        _draw(draw, nodes)
    if as_json:
        print_json([node.model_dump(mode="json") for node in nodes])
        return
    colours = {"met": "green", "missed": "red", "open": "yellow", "not run": "dim"}
    root = Tree("experiments")
    branches = [root]
    for node in nodes:
        del branches[node.depth + 1 :]
        words = f"[{colours[node.state]}]{escape(node.words)}[/]"
        branches.append(branches[-1].add(f"[bold]{node.record.id}[/] {words}\n{escape(node.record.title)}"))
    result_console().print(root)
    if draw is not None:
        print(draw)


def _tree(folder: Path | None, output_dir: Path) -> "tuple[ExperimentNode, ...]":
    """Return the tree of records with the output folder's runs."""
    from llava_av.experiments.overview import experiment_tree
    from llava_av.experiments.records import experiments_folder, list_records, read_record

    records = list_records(folder or experiments_folder())
    rows = {}
    for record in records:
        copy = copy_with_runs(output_dir, record.id)
        if copy.is_file():
            observed = (*record.observed, *read_record(copy, draft=True).observed)
            rows[record.id] = tuple(dict.fromkeys(observed))
    return experiment_tree(records, rows)


def _draw(path: Path, nodes: "Sequence[ExperimentNode]") -> None:
    from llava_av.report.tree_diagram import Box, write_diagram

    states = {"met": "good", "missed": "bad", "open": "open", "not run": "plain"}
    boxes = [
        Box(
            title=node.record.id,
            lines=(node.record.title, node.words),
            depth=node.depth,
            state=states[node.state],
        )
        for node in nodes
    ]
    write_diagram(path, "Experiments and their outcomes", boxes)


def copy_with_runs(output_dir: Path, record_id: str) -> Path:
    """Return the path of the output folder's copy of a record, which its runs update."""
    return Workspace(folder=output_dir.absolute()).experiments / f"{record_id}.md"
