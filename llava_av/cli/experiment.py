"""`llava-av experiment`: the experiment records that runs belong to."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_av.cli import experiment_read
from llava_av.cli.display import print_json
from llava_av.cli.experiment_compare import compare
from llava_av.cli.experiment_read import RecordFolder, RecordName, copy_with_runs
from llava_av.cli.options import AsJson, OutputDir
from llava_av.errors import UserError
from llava_av.plurals import count_of
from llava_av.workflows.runtime.workspace import DEFAULT_FOLDER

if TYPE_CHECKING:
    from llava_av.experiments.records import ExperimentRecord

__all__ = ["app"]

app = typer.Typer(help="Write, check, compare and close experiment records.", no_args_is_help=True)


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
    folder: RecordFolder = None,
    as_json: AsJson = False,
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
    path = new_record(folder or require_records_folder(project_folder(FileKind.EXPERIMENTS)), draft)
    if as_json:
        print_json({"record": str(path)})
    else:
        print(path)


@app.command()
def check(
    name: RecordName,
    folder: RecordFolder = None,
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


app.command("list")(experiment_read.list_all)
app.command()(experiment_read.show)
app.command()(experiment_read.search)
app.command()(experiment_read.graph)
app.command()(compare)


@app.command()
def pull(
    name: RecordName,
    folder: RecordFolder = None,
    output_dir: OutputDir = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> None:
    """Fetch the observed values of all runs of an experiment, including runs on a cluster."""
    from llava_av.cli.session import session
    from llava_av.experiments.records import load_record
    from llava_av.storage import ObjectStore
    from llava_av.workflows.run_outcomes import pull_outcomes

    _, record = load_record(name, folder, draft=True)
    with session(output_dir, need_mlflow=False) as workspace:
        count = pull_outcomes(workspace, ObjectStore.from_env(), record.id)
    if as_json:
        print_json({"record": record.id, "runs": count})
    else:
        print(f"{count_of(count, 'run')} of {record.id}")


@app.command()
def close(
    name: RecordName,
    lessons: Annotated[str, typer.Option(help="Lessons learned (default: prompt).")] = "",
    next_steps: Annotated[str, typer.Option(help="Next steps (default: prompt).")] = "",
    folder: RecordFolder = None,
    output_dir: OutputDir = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> None:
    """Write observed values, lessons and next steps to a record; commit the file afterwards."""
    from llava_av.experiments.authoring import close_record
    from llava_av.experiments.records import load_record, read_record

    path, record = load_record(name, folder, draft=True)
    copy = copy_with_runs(output_dir, record.id)
    rows = read_record(copy, draft=True).observed if copy.is_file() else ()
    if not as_json:
        _show_rows(record, rows)
    lessons = lessons or _prompted("lessons", "What was learned?")
    next_steps = next_steps or _prompted("next-steps", "What are the next steps?")
    closed = close_record(path, lessons=lessons, next_steps=next_steps, rows=rows)
    if not as_json:
        observed = count_of(len(closed.observed), "run")
        print(f"{path}: closed on {closed.closed} with {observed}; commit it", flush=True)
    try:
        mirrored = _mirrored(path, closed, output_dir)
    except UserError as error:
        raise UserError(
            f"{error}; the record is closed but not yet in MLflow: run"
            f" `llava-av experiment mirror {closed.id}` later"
        ) from None
    if as_json:
        print_json({"record": str(path), "observed": list(closed.observed), "mirrored": mirrored})
    else:
        _print_mirrored(closed.id, mirrored)


@app.command()
def mirror(
    name: RecordName,
    folder: RecordFolder = None,
    output_dir: OutputDir = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> None:
    """Copy a record to MLflow as the note of its experiment and runs."""
    from llava_av.experiments.records import load_record

    path, record = load_record(name, folder, draft=True)
    mirrored = _mirrored(path, record, output_dir)
    if as_json:
        print_json({"record": str(path), "mirrored": mirrored})
    else:
        _print_mirrored(record.id, mirrored)


def _mirrored(path: Path, record: "ExperimentRecord", output_dir: Path) -> int:
    """Copy a record to MLflow; return the number of runs that have it as a note."""
    from llava_av.cli.session import session
    from llava_av.tracking.mirrored_records import mirror_closed

    with session(output_dir):
        text = path.read_text(encoding="utf-8")
        return mirror_closed(record.id, text, record.closed.isoformat() if record.closed else "no")


def _print_mirrored(record_id: str, runs: int) -> None:
    print(
        f"MLflow: updated the notes of {record_id} and of {count_of(runs, 'run')}"
        if runs
        else f"MLflow has no run of {record_id}"
    )


def _prompted(option: str, question: str) -> str:
    if not sys.stdin.isatty():
        raise UserError(f"--{option} is missing, and there is no terminal to prompt for it: add the option")
    return str(typer.prompt(question, err=True))


def _show_rows(record: "ExperimentRecord", rows: Sequence[str]) -> None:
    from llava_av.experiments.outcomes import parse_run_row

    for row in dict.fromkeys((*record.observed, *rows)):
        observed = parse_run_row(row)
        print(f"run {observed.run}, {observed.date}")
        for text, _ in observed.results:
            print(f"  {text}")
