"""`llava-av runs`: list and show the runs of an output folder or bucket."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import typer

from llava_av.cli.display import print_json, print_rows, print_values
from llava_av.cli.options import AsJson, OutputDir, RunIdArgument
from llava_av.workflows.runtime.workspace import DEFAULT_FOLDER

if TYPE_CHECKING:
    from llava_av.report.run_index.index_page import IndexedRun
    from llava_av.workflows.indexed_run import StoredRun

__all__ = ["app"]

app = typer.Typer(help="List and show runs.", no_args_is_help=True)


@app.command("list")
def list_all(as_json: AsJson = False, output_dir: OutputDir = DEFAULT_FOLDER) -> None:
    """List the runs, the newest first."""
    from llava_av.cli.session import stored_objects
    from llava_av.workflows.stored_runs import read_stored_runs

    with stored_objects(output_dir, "runs") as store:
        rows = read_stored_runs(store).rows({})
    if as_json:
        print_json([row.model_dump(mode="json") for row in rows])
        return
    columns = ("run", "opened", "recipe", "dataset", "seed", "accuracy", "expectations", "gate", "version")
    print_rows(columns, [_cells(row) for row in rows])


def _cells(row: "IndexedRun") -> Iterable[str]:
    judged = row.met + row.missed + row.unmeasured
    return (
        row.run,
        row.at.strftime("%Y-%m-%d %H:%M") if row.at else "",
        row.recipe,
        row.dataset,
        "" if row.seed is None else str(row.seed),
        f"{row.accuracy.value:.3f} {row.family}" if row.accuracy else "",
        f"{row.met} of {judged} met" if judged else "",
        row.gate or row.state,
        " ".join((row.version, *row.aliases)),
    )


@app.command()
def show(run: RunIdArgument, as_json: AsJson = False, output_dir: OutputDir = DEFAULT_FOLDER) -> None:
    """Show the inputs and results of a run."""
    from llava_av.cli.session import stored_objects
    from llava_av.workflows.stored_runs import read_one_run

    with stored_objects(output_dir, run) as store:
        stored, row = read_one_run(store, run)
    details = _details(stored)
    if as_json:
        print_json(row.model_dump(mode="json") | details)
        return
    print_values({**_inputs(row), **{name: details[name] for name in ("checkpoint", "digest")}})
    for outcome in details["expected"]:
        print(outcome)


def _inputs(row: "IndexedRun") -> Mapping[str, str]:
    code = f"{row.commit[:12]} + patch" if row.dirty else row.commit[:12]
    accuracy = row.accuracy
    return {
        "run": row.run,
        "experiment": row.experiment,
        "recipe": row.recipe if row.seed is None else f"{row.recipe}, seed {row.seed}",
        "dataset": row.dataset,
        "code": code,
        "opened": f"{row.at:%Y-%m-%d %H:%M} by {row.by}" if row.at else "",
        "state": row.state,
        "accuracy": f"{accuracy.value:.3f} [{accuracy.low:.3f}, {accuracy.high:.3f}] {row.family}"
        if accuracy
        else "",
        "gate": row.gate,
        "version": " ".join((row.version, *row.aliases)),
    }


def _details(stored: "StoredRun") -> dict[str, Any]:
    checkpoint = stored.train.checkpoint if stored.train else None
    return {
        "checkpoint": checkpoint.uri if checkpoint else "",
        "digest": checkpoint.digest if checkpoint else "",
        "expected": [check.outcome for check in stored.outcome.checks] if stored.outcome else [],
    }
