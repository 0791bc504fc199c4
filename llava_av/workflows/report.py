"""Report of a run: report.html and summary.json, from the objects that the other steps wrote."""

import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from llava_av.datasets.commits import Commit, read_commit
from llava_av.datasets.contents import Selection
from llava_av.datasets.extraction import extract
from llava_av.experiments.records import find_record
from llava_av.files import write_json, write_whole
from llava_av.report import ExperimentView, ReportInputs, build_summary, shown_samples, write_report
from llava_av.runs import (
    Comparisons,
    GateDecision,
    Prediction,
    QuarantinedFile,
    Registration,
    Run,
    RunOutcome,
    RunRequest,
    Summary,
    TrainingResult,
    UnfitSample,
    named_datasets,
    unfit_sample_name,
)
from llava_av.runs.names import REPORT
from llava_av.storage import ObjectStore
from llava_av.workflows.evaluated_run import EvaluatedRun, read_evaluated_run
from llava_av.workflows.runtime.command_hints import chat_command, mlflow_hint, program, short_path
from llava_av.workflows.runtime.retry import retry_transient
from llava_av.workflows.runtime.workspace import STEPS, Workspace

__all__ = ["ReportFiles", "report_step"]


@dataclass(frozen=True, kw_only=True)
class ReportFiles:
    """Files of a report."""

    report: Path
    summary: Path


@retry_transient
def report_step(workspace: Workspace, run_id: str) -> ReportFiles:
    """Write report.html and summary.json to the workspace's folder and to the run in S3.

    Raises:
        RunMissing: The run is not trained or not evaluated.
    """
    started = time.monotonic()
    evaluated = read_evaluated_run(Run(store=ObjectStore.from_env(), id=run_id))
    run = evaluated.run
    made = ReportFiles(report=workspace.folder / REPORT, summary=workspace.folder / Summary.NAME)
    inputs = _inputs(workspace, evaluated, started)
    write_report(made.report, inputs)
    # The page shows the durations known before it is rendered; the summary also has that of this step.
    run.record_seconds("report", time.monotonic() - started)
    summary = inputs.summary.model_copy(update={"seconds": run.seconds(STEPS)})
    run.store.put_sealed(run.path(REPORT), made.report.read_bytes())
    run.write(summary)
    # Last: if this file exists, everything else exists.
    write_json(made.summary, summary.to_json())
    return made


def _inputs(workspace: Workspace, evaluated: EvaluatedRun, started: float) -> ReportInputs:
    run, request, train = evaluated.run, evaluated.request, evaluated.train
    registered, gate = run.find(Registration), run.find(GateDecision)
    commit, *further = (read_commit(run.store, one.name, one.commit) for one in request.datasets)
    summary = build_summary(
        dataset_commit=commit.id,
        checkpoint=train.checkpoint,
        registered=registered,
        evaluation=evaluated.evaluation,
        gate=gate,
        seconds={**run.seconds(STEPS), "report": time.monotonic() - started},
        quarantined=tuple(_left_out([commit, *further], evaluated)),
    )
    predictions = run.predictions(evaluated.evaluation)
    comparisons = run.find(Comparisons)
    return ReportInputs(
        title=f"{request.recipe_name} on {', '.join(one.name for one in request.datasets)}",
        summary=summary,
        evaluation=evaluated.evaluation,
        predictions=predictions,
        metrics=tuple(run.metrics()),
        train=train,
        lineage=registered.lineage if registered is not None else None,
        moved=gate.moved if gate is not None else (),
        experiment=_experiment(evaluated),
        comparisons=comparisons.comparisons if comparisons is not None else (),
        clips=_clips(workspace, run.store, commit, predictions),
        reproduce=_reproduce(workspace, request),
        chat=_ask(workspace, commit.id, train, registered),
    )


def _left_out(commits: Sequence[Commit], evaluated: EvaluatedRun) -> Iterator[QuarantinedFile]:
    """Yield the files that the commits left out and the samples that do not fit the model."""
    for commit in commits:
        place = f"{commit.name}/" if len(commits) > 1 else ""
        for bad in commit.manifest.quarantined:
            yield QuarantinedFile(file=f"{place}{bad.file}", reason=bad.reason)
    yield from _unfit(evaluated.train.unfit, "train")
    yield from _unfit(evaluated.evaluation.unfit, "held_out")


def _unfit(samples: Sequence[UnfitSample], split: str) -> Iterator[QuarantinedFile]:
    for sample in samples:
        yield QuarantinedFile(file=unfit_sample_name(sample.id, split), reason=sample.reason)


def _clips(
    workspace: Workspace, store: ObjectStore, commit: Commit, predictions: Sequence[Prediction]
) -> dict[str, Path]:
    """Copy the samples that the report shows to the workspace; return the local files of their clips."""
    folder = workspace.shown_samples(commit.id)
    if shown := shown_samples(predictions):
        extract(store, commit, folder, Selection(samples=shown), force=True)
    names = sorted({item.clip for item in predictions if item.clip and item.id in shown})
    return {name: folder / name for name in names if (folder / name).is_file()}


def _experiment(evaluated: EvaluatedRun) -> ExperimentView:
    record, outcome = evaluated.record, evaluated.run.find(RunOutcome)
    return ExperimentView.model_validate(
        {
            "id": record.id,
            "title": record.title,
            "parent": record.parent or "",
            "changes": [change.line() for change in outcome.changes] if outcome is not None else (),
            "incomplete": evaluated.request.experiment.incomplete,
            "hypothesis": record.hypothesis,
            "rationale": record.rationale,
            "expected": outcome.checks if outcome is not None else (),
            "next_steps": record.next_steps,
            "lessons": record.lessons,
        }
    )


def _reproduce(workspace: Workspace, request: RunRequest) -> tuple[str, ...]:
    """Return the command that trains the run again, and write its whole recipe with all overrides."""
    recipe, experiment = request.recipe, request.experiment.id
    file = workspace.folder / "recipe.yaml"
    write_whole(file, yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
    if find_record(experiment) is None:
        experiment = short_path(workspace.experiments / f"{experiment}.md")
    options = {
        "--dataset": named_datasets(request.datasets),
        "--seed": str(recipe.seed),
        "--engine": recipe.training.engine,
        "--experiment": experiment,
        "--output-dir": short_path(workspace.folder),
    }
    words = [word for option in options.items() for word in option]
    return (f"{program()} train {shlex.join([short_path(file), *words])}",)


def _ask(
    workspace: Workspace,
    commit: str,
    train: TrainingResult,
    registered: Registration | None,
) -> tuple[str, ...]:
    models = [train.checkpoint.uri]
    if registered is not None:
        models += [f"models:/{registered.name}@{alias}" for alias in registered.aliases]
    return (
        *(chat_command(workspace, model, commit) for model in models),
        f"# its curves, in MLflow: {mlflow_hint(workspace)}",
    )
