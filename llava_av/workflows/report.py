"""Make report.html and summary.json from what the other steps left, and complete the experiment's outcome."""

import shlex
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from llava_av.datasets.commits import checkout, read_commit
from llava_av.experiments.changes import Change
from llava_av.experiments.records import experiments_folder
from llava_av.recipe import current_names
from llava_av.report import ExperimentView, ReportInputs, build_summary, write_json, write_report
from llava_av.report.run_report.summary import write_text
from llava_av.storage import ObjectStore
from llava_av.workflows.runs import TRAIN_COMMAND, Run
from llava_av.workflows.runtime.command_hints import chat_command, mlflow_place, program, short
from llava_av.workflows.runtime.retry import retry_transient
from llava_av.workflows.runtime.workspace import STEPS, Workspace
from llava_av.workflows.task_evaluations import read_evaluation

__all__ = ["MadeReport", "report_step"]


@dataclass(frozen=True, kw_only=True)
class MadeReport:
    """Where the report is."""

    report: Path
    summary: Path


@retry_transient
def report_step(workspace: Workspace, run_key: str) -> MadeReport:
    """Write report.html and summary.json to the workspace's folder and to the run in S3.

    Raises:
        RunMissing: the run has not been trained or evaluated.
    """
    started = time.monotonic()
    run = Run(store=ObjectStore.from_env(), key=run_key)
    made = MadeReport(report=workspace.folder / "report.html", summary=workspace.folder / "summary.json")
    inputs = _inputs(workspace, run, started)
    write_report(made.report, inputs)
    # Its own duration is known now; the page shows that of all steps up to its drawing.
    run.keep_seconds("report", time.monotonic() - started)
    summary = {**inputs.summary.model_dump(mode="json"), "seconds": run.seconds(STEPS)}
    run.store.put_sealed(run.path("report.html"), made.report.read_bytes())
    run.write("summary.json", summary)
    # Last: where it is, everything else is.
    write_json(made.summary, summary)
    return made


def _unfit(samples: Iterable[Mapping[str, str]], split: str) -> Iterator[dict[str, str]]:
    """Yield rows for samples that the model cannot take, as for files that the commit left out."""
    for sample in samples:
        yield {"file": f"sample {sample['id']} of {split}", "reason": sample["reason"]}


def _inputs(workspace: Workspace, run: Run, started: float) -> ReportInputs:
    request = run.request()
    train = run.read("train.json", made_by=TRAIN_COMMAND)
    evaluation = read_evaluation(run)
    registered, gate = run.find("register.json"), run.find("gate.json")
    commit = read_commit(run.store, request["dataset"]["name"], request["dataset"]["commit"])
    summary = build_summary(
        dataset_commit=commit.id,
        checkpoint=train["checkpoint"],
        model_version=registered,
        evaluation=evaluation,
        gate=gate,
        seconds={**run.seconds(STEPS), "report": time.monotonic() - started},
        quarantined=[
            *({"file": bad.file, "reason": bad.reason} for bad in commit.manifest.quarantined),
            *_unfit(train.get("unfit", ()), "train"),
            *_unfit(evaluation.get("unfit", ()), "held_out"),
        ],
    )
    predictions = run.predictions()
    return ReportInputs.model_validate(
        {
            "title": f"{request['recipe']['name']} on {commit.name}",
            "summary": summary,
            "evaluation": evaluation,
            "predictions": predictions,
            "metrics": run.rows("metrics.jsonl"),
            "train": train,
            "lineage": (registered or {}).get("lineage", {}),
            "moved": (gate or {}).get("moved", ()),
            "experiment": _experiment(run),
            "comparisons": (run.find("comparisons.json") or {}).get("comparisons", ()),
            "clips": _clips(workspace, run.store, commit, predictions),
            "reproduce": _reproduce(workspace, request),
            "chat": _ask(workspace, commit.id, train, registered),
        }
    )


def _clips(
    workspace: Workspace, store: ObjectStore, commit: Any, predictions: list[dict[str, Any]]
) -> dict[str, Path]:
    """Local files of the clips that were asked about."""
    folder = checkout(store, commit, workspace.work / "data" / commit.id[:16])
    names = {row["clip"] for row in predictions if row.get("clip")}
    return {name: folder / name for name in sorted(names) if (folder / name).is_file()}


def _experiment(run: Run) -> ExperimentView:
    record, outcome = run.record(), run.find("outcome.json") or {}
    changes = (Change.model_validate(change) for change in outcome.get("changes", ()))
    return ExperimentView.model_validate(
        {
            "id": record.id,
            "title": record.title,
            "parent": record.parent or "",
            "changes": [change.line() for change in changes],
            "incomplete": run.request()["experiment"].get("incomplete", ()),
            "hypothesis": record.hypothesis,
            "rationale": record.rationale,
            "expected": outcome.get("checks", ()),
            "next_steps": record.next_steps,
            "lessons": record.lessons,
        }
    )


def _reproduce(workspace: Workspace, request: Mapping[str, Any]) -> tuple[str, ...]:
    """The command that trains the run again, from a file of its whole recipe with all overrides."""
    recipe = current_names(request["recipe"])
    dataset, experiment = request["dataset"], request["experiment"]["id"]
    file = workspace.folder / "recipe.yaml"
    write_text(file, yaml.safe_dump(recipe, sort_keys=False))
    if not (experiments_folder() / f"{experiment}.md").is_file():
        experiment = short(workspace.experiments / f"{experiment}.md")
    options = {
        "--dataset": f"{dataset['name']}@{dataset['commit']}",
        "--seed": str(recipe["seed"]),
        "--engine": recipe["training"]["engine"],
        "--experiment": experiment,
        "--output-dir": short(workspace.folder),
    }
    words = [word for option in options.items() for word in option]
    return (f"{program()} train {shlex.join([short(file), *words])}",)


def _ask(
    workspace: Workspace, commit: str, train: Mapping[str, Any], registered: Mapping[str, Any] | None
) -> tuple[str, ...]:
    asked = [train["checkpoint"]["uri"]]
    if registered:
        asked += [f"models:/{registered['name']}@{alias}" for alias in registered["aliases"]]
    return (
        *(chat_command(workspace, checkpoint, commit) for checkpoint in asked),
        f"# its curves, in MLflow: {mlflow_place(workspace)}",
    )
