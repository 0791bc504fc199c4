"""`llava-av experiment`: the experiment records that runs belong to."""

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_av.cli.display import print_json, print_rows
from llava_av.cli.experiment_compare import compare
from llava_av.cli.options import AsJson, OutputDir
from llava_av.errors import UserError
from llava_av.plurals import count_of
from llava_av.workflows.runtime.workspace import DEFAULT_FOLDER, Workspace

if TYPE_CHECKING:
    from llava_av.experiments.overview import ExperimentNode
    from llava_av.experiments.records import ExperimentRecord

__all__ = ["app"]

app = typer.Typer(help="Write, check, compare and close experiment records.", no_args_is_help=True)
_Folder = Annotated[
    Path | None, typer.Option(help="Folder of the records (default: the project's, then the package's).")
]


class _Part(StrEnum):
    """A part of a record that `show` can print alone."""

    RECIPE = "recipe"
    DATASET = "dataset"
    SEEN = "seen"


_Name = Annotated[str, typer.Argument(help="ID of the record, or its Markdown file.")]


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="ID of the record: lower-case words and dashes.")],
    title: Annotated[str, typer.Option(help="Title in one line.")],
    parent: Annotated[str | None, typer.Option(help="ID of the parent record.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="Name or file of the recipe (default: the parent's)."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="demo, NAME or NAME@COMMIT (default: the parent's)."),
    ] = None,
    hypothesis: Annotated[str, typer.Option(help="Hypothesis.")] = "",
    rationale: Annotated[str, typer.Option(help="Rationale of the hypothesis.")] = "",
    next_steps: Annotated[str, typer.Option(help="Next steps after either outcome.")] = "",
    expect: Annotated[
        list[str] | None,
        typer.Option(help="Expectation such as 'accuracy.av.joint over parent >= 0.02'; may be repeated."),
    ] = None,
    folder: _Folder = None,
) -> None:
    """Create a record with its computed changes against the parent, and print its path."""
    from llava_av.experiments.authoring import Draft, new_record, parse_statement
    from llava_av.experiments.records import require_records_folder
    from llava_av.named_files import FileKind, project_folder

    draft = Draft(
        id=name,
        title=title,
        parent=parent,
        recipe=recipe,
        dataset=dataset,
        hypothesis=hypothesis,
        rationale=rationale,
        next_steps=next_steps,
        expected=tuple(parse_statement(text) for text in expect or []),
    )
    print(new_record(folder or require_records_folder(project_folder(FileKind.EXPERIMENTS)), draft))


@app.command()
def check(
    name: _Name,
    folder: _Folder = None,
    write: Annotated[
        bool, typer.Option("--write", help="Update the section Changes if it is outdated.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check that a record is complete, as runs on a cluster require; exit with 1 if it is not."""
    from llava_av.experiments.authoring import refresh_changes
    from llava_av.experiments.completeness import problems
    from llava_av.experiments.records import load_record

    path, record = load_record(name, folder, draft=True)
    updated = write and refresh_changes(path)
    if updated:
        record = load_record(name, folder, draft=True)[1]
    lacks = problems(record, path.parent)
    if as_json:
        expected = len(record.expected)
        print_json({"record": str(path), "updated": updated, "problems": lacks, "expected": expected})
    else:
        lines = (["updated the section Changes"] if updated else []) + list(lacks)
        if not lacks:
            lines.append(f"complete, {count_of(len(record.expected), 'expectation')}")
        for line in lines:
            print(f"{path}: {line}")
    if lacks:
        raise typer.Exit(1)


@app.command("list")
def list_all(folder: _Folder = None, output_dir: OutputDir = DEFAULT_FOLDER, as_json: AsJson = False) -> None:
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


@app.command()
def show(
    name: _Name,
    folder: _Folder = None,
    output_dir: OutputDir = DEFAULT_FOLDER,
    part: Annotated[_Part | None, typer.Option(help="Print only this part, for scripts.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print a record, including the observed values of the output folder's runs."""
    from llava_av.experiments.outcomes import TABLE_HEAD
    from llava_av.experiments.records import load_record, read_record

    path, record = load_record(name, folder, draft=True)
    copy = _copy_with_runs(output_dir, record.id)
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


@app.command()
def search(
    words: Annotated[list[str], typer.Argument(help="Words that must all occur.")],
    folder: _Folder = None,
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


@app.command()
def graph(
    folder: _Folder = None,
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


app.command()(compare)


@app.command()
def pull(name: _Name, folder: _Folder = None, output_dir: OutputDir = DEFAULT_FOLDER) -> None:
    """Fetch the observed values of all runs of an experiment, including runs on a cluster."""
    from llava_av.cli.session import session
    from llava_av.experiments.records import load_record
    from llava_av.storage import ObjectStore
    from llava_av.workflows.run_outcomes import pull_outcomes

    _, record = load_record(name, folder, draft=True)
    with session(output_dir, need_mlflow=False) as workspace:
        count = pull_outcomes(workspace, ObjectStore.from_env(), record.id)
    print(f"{count_of(count, 'run')} of {record.id}")


@app.command()
def close(
    name: _Name,
    lessons: Annotated[str, typer.Option(help="Lessons learned (default: prompt).")] = "",
    next_steps: Annotated[str, typer.Option(help="Next steps (default: prompt).")] = "",
    folder: _Folder = None,
    output_dir: OutputDir = DEFAULT_FOLDER,
) -> None:
    """Write observed values, lessons and next steps to a record; commit the file afterwards."""
    from llava_av.experiments.authoring import close_record
    from llava_av.experiments.records import load_record, read_record

    path, record = load_record(name, folder, draft=True)
    copy = _copy_with_runs(output_dir, record.id)
    rows = read_record(copy, draft=True).observed if copy.is_file() else ()
    _show_rows(record, rows)
    lessons = lessons or _prompted("lessons", "What was learned?")
    next_steps = next_steps or _prompted("next-steps", "What are the next steps?")
    closed = close_record(path, lessons=lessons, next_steps=next_steps, rows=rows)
    print(
        f"{path}: closed on {closed.closed} with {count_of(len(closed.observed), 'run')}; commit it",
        flush=True,
    )
    try:
        _mirror(path, closed, output_dir)
    except UserError as error:
        raise UserError(
            f"{error}; the record is closed but not yet in MLflow: run"
            f" `llava-av experiment mirror {closed.id}` later"
        ) from None


@app.command()
def mirror(name: _Name, folder: _Folder = None, output_dir: OutputDir = DEFAULT_FOLDER) -> None:
    """Copy a record to MLflow as the note of its experiment and runs."""
    from llava_av.experiments.records import load_record

    path, record = load_record(name, folder, draft=True)
    _mirror(path, record, output_dir)


def _mirror(path: Path, record: "ExperimentRecord", output_dir: Path) -> None:
    from llava_av.cli.session import session
    from llava_av.tracking.mirrored_records import mirror_closed

    with session(output_dir):
        text = path.read_text(encoding="utf-8")
        runs = mirror_closed(record.id, text, record.closed.isoformat() if record.closed else "no")
    print(
        f"MLflow: updated the notes of {record.id} and of {count_of(runs, 'run')}"
        if runs
        else f"MLflow has no run of {record.id}"
    )


def _prompted(option: str, question: str) -> str:
    if not sys.stdin.isatty():
        raise UserError(f"--{option} is missing, and there is no terminal to prompt for it: add the option")
    return str(typer.prompt(question))


def _show_rows(record: "ExperimentRecord", rows: Sequence[str]) -> None:
    from llava_av.experiments.outcomes import parse_run_row

    for row in dict.fromkeys((*record.observed, *rows)):
        observed = parse_run_row(row)
        print(f"run {observed.run}, {observed.date}")
        for text, _ in observed.results:
            print(f"  {text}")


def _tree(folder: Path | None, output_dir: Path) -> "tuple[ExperimentNode, ...]":
    """Return the tree of records with the output folder's runs."""
    from llava_av.experiments.overview import experiment_tree
    from llava_av.experiments.records import experiments_folder, list_records, read_record

    records = list_records(folder or experiments_folder())
    rows = {}
    for record in records:
        copy = _copy_with_runs(output_dir, record.id)
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


def _copy_with_runs(output_dir: Path, record_id: str) -> Path:
    """Return the path of the output folder's copy of a record, which its runs update."""
    return Workspace(folder=output_dir.absolute()).experiments / f"{record_id}.md"
