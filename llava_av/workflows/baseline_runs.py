"""Baselines of a run: the parent experiment's run and the champion, compared question by question."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass

from llava_av.evaluation.comparison import paired_differences
from llava_av.experiments.changes import changes_between
from llava_av.registry.baselines import Baseline
from llava_av.registry.versions import load_version
from llava_av.runs import (
    Change,
    EvaluationResult,
    Over,
    Registration,
    Run,
    RunOutcome,
    RunRequest,
    named_datasets,
)
from llava_av.runs.names import experiment_prefix, outcome_key
from llava_av.storage import ObjectStore
from llava_av.workflows.evaluated_run import EvaluatedRun, read_evaluated_run
from llava_av.workflows.open_run import read_run_record

__all__ = [
    "Baselines",
    "baseline_of",
    "changes_against",
    "find_baselines",
    "list_outcomes",
    "newest_run",
    "write_outcome_index",
]


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """Models that a run is compared with."""

    by_name: Mapping[Over, Baseline]
    """`parent` and `champion`, if they exist."""
    parent: Run | None
    """Run of the parent experiment."""


def find_baselines(evaluated: EvaluatedRun, *, champion: str | None = None) -> Baselines:
    """Find the models that an evaluated run can be compared with.

    Args:
        evaluated: The run.
        champion: `models:/NAME/VERSION` of the champion; None if there is none, or to skip the comparison.

    Raises:
        MlflowError: MLflow does not answer.
    """
    found: dict[Over, Baseline] = {}
    store, record = evaluated.run.store, evaluated.record
    parent = newest_run(store, record.parent, like=evaluated.request) if record.parent else None
    if parent is not None:
        found["parent"] = baseline_of(evaluated, parent, label=f"run {parent.id} of {record.parent}")
    if champion is not None:
        found["champion"] = _champion(evaluated, load_version(store, champion))
    return Baselines(by_name=found, parent=parent)


def baseline_of(evaluated: EvaluatedRun, other: Run, *, label: str) -> Baseline:
    """Return another run as a baseline, paired where both answered the same questions."""
    baseline = read_evaluated_run(other)
    own, evaluation = evaluated.evaluation, baseline.evaluation
    tasks = {
        task: Baseline(
            label=label,
            evaluation=found,
            paired=paired_differences(
                evaluated.run.predictions(own.tasks[task], evaluated.place(task)),
                other.predictions(found, baseline.place(task)),
            ),
        )
        for task, found in evaluation.tasks.items()
        if task in own.tasks and _same_questions(own.tasks[task], found)
    }
    paired = paired_differences(evaluated.run.predictions(own), other.predictions(evaluation))
    return Baseline(label=label, evaluation=evaluation, paired=paired, tasks=tasks)


def _same_questions(first: EvaluationResult, second: EvaluationResult) -> bool:
    return (first.task, first.dataset) == (second.task, second.dataset)


def _champion(evaluated: EvaluatedRun, champion: Registration) -> Baseline:
    """Return the champion as a baseline; every rule fails over a champion that was never evaluated."""
    label, run_id = f"version {champion.version}", champion.run
    if not run_id:
        return Baseline(label=f"{label}, whose lineage names no run", evaluation=None)
    other = Run(store=evaluated.run.store, id=run_id)
    if not other.has(EvaluationResult):
        label = f"{label}, whose run {run_id} has no {EvaluationResult.NAME}"
        return Baseline(label=label, evaluation=None)
    return baseline_of(evaluated, other, label=label)


def write_outcome_index(run: Run, experiment: str, outcome: RunOutcome) -> None:
    """Write the outcome of a run to the index of the runs of its experiment."""
    run.store.put_json(outcome_key(experiment, run.id), outcome.to_json())


def newest_run(store: ObjectStore, experiment: str, *, like: RunRequest | None = None) -> Run | None:
    """Return the newest evaluated run of an experiment; None if there is none.

    Args:
        store: Store of the runs.
        experiment: ID of the record.
        like: Request of the run to compare it with. Runs of the record's own recipe are preferred, then runs
            on the same dataset commit.
    """
    best: tuple[tuple[bool, bool, datetime.date, str], str] | None = None
    for outcome in list_outcomes(store, experiment):
        run = Run(store=store, id=outcome.run)
        if (like is not None and run.id == like.run) or not run.has(EvaluationResult):
            continue
        rank = (
            outcome.recipe == (read_run_record(run).recipe or ""),
            like is not None and outcome.dataset_commit == like.dataset.commit,
            outcome.date,
            run.id,
        )
        best = max(best or (rank, run.id), (rank, run.id))
    return Run(store=store, id=best[1]) if best else None


def list_outcomes(store: ObjectStore, experiment: str) -> list[RunOutcome]:
    """Return the outcomes of all evaluated runs of an experiment, oldest first."""
    keys = sorted(info.key for info in store.list(experiment_prefix(experiment)))
    outcomes = [RunOutcome.model_validate(store.get_json(key)) for key in keys]
    return sorted(outcomes, key=lambda outcome: outcome.date)


def changes_against(run: Run, other: Run) -> tuple[Change, ...]:
    """Return the differences between two runs in recipe, dataset commit and code."""
    first, second = other.request(), run.request()
    changes = changes_between(
        (first.recipe_json, named_datasets(first.datasets)),
        (second.recipe_json, named_datasets(second.datasets)),
    )
    before, after = other.code(), run.code()
    if before.digest != after.digest:
        names = (str(state.git.commit or state.digest)[:12] for state in (before, after))
        changes += (Change(what="code", before=next(names), after=next(names)),)
    return changes
