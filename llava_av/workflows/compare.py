"""Comparison of two runs: differences in inputs, and in accuracies with intervals."""

from collections.abc import Mapping
from dataclasses import dataclass

from llava_av.experiments.records import load_record
from llava_av.registry.baselines import Baseline
from llava_av.report.labels import ordered_ablations, ordered_families
from llava_av.runs import (
    ComparedNumber,
    Comparisons,
    EvaluationResult,
    Interval,
    ModelComparison,
    Over,
    Run,
    RunMissing,
    RunRequest,
    is_run_id,
)
from llava_av.storage import ObjectStore
from llava_av.workflows.baseline_runs import baseline_of, changes_against, newest_run
from llava_av.workflows.evaluated_run import EvaluatedRun, read_evaluated_run

__all__ = ["RunComparison", "compare_runs", "compared_numbers", "write_comparisons"]


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    """Differences between two runs."""

    run: str
    """ID of the compared run."""
    baseline: str
    """ID of the run that it is compared with."""
    changes: tuple[str, ...]
    """Differences in recipe, dataset and code from the baseline to the run, a line each."""
    rows: tuple[ComparedNumber, ...]
    """Accuracies of the run minus those of the baseline."""


def compare_runs(store: ObjectStore, name: str, baseline: str) -> RunComparison:
    """Compare a run with a baseline, or the newest runs of two experiments.

    Args:
        store: Store of the runs.
        name: ID of the run, or of an experiment record.
        baseline: ID of the baseline run, or of an experiment record.

    Raises:
        RunMissing: A run does not exist, or is not evaluated.
        ExperimentError: Neither a run nor a record has this name.
    """
    run = _run(store, name)
    base = _run(store, baseline, like=run.request())
    evaluated = read_evaluated_run(run)
    rows = compared_numbers(evaluated.evaluation, baseline_of(evaluated, base, label=baseline))
    changes = tuple(change.line().replace("`", "") for change in changes_against(run, base))
    return RunComparison(run=run.id, baseline=base.id, changes=changes, rows=rows)


def compared_numbers(own: EvaluationResult, baseline: Baseline) -> tuple[ComparedNumber, ...]:
    """Return every accuracy that a model and its baseline both have, by ablation and family."""
    return tuple(
        number
        for ablation in ordered_ablations(own.accuracy)
        for family in ordered_families(own.accuracy[ablation])
        if (number := _compared(own, baseline, ablation, family)) is not None
    )


def _compared(own: EvaluationResult, baseline: Baseline, ablation: str, family: str) -> ComparedNumber | None:
    difference = baseline.difference(own, "accuracy", ablation, family)
    if baseline.evaluation is None or not isinstance(difference, Interval):
        return None
    return ComparedNumber(
        ablation=ablation,
        family=family,
        first=baseline.evaluation.accuracy[ablation][family].value,
        second=own.accuracy[ablation][family].value,
        value=difference.value,
        low=difference.low,
        high=difference.high,
        paired=family in baseline.paired.get(ablation, {}),
    )


def write_comparisons(evaluated: EvaluatedRun, baselines: Mapping[Over, Baseline]) -> None:
    """Write the comparisons of a run with its baselines, which the report shows."""
    found = tuple(
        ModelComparison(
            over=over, label=baseline.label, rows=compared_numbers(evaluated.evaluation, baseline)
        )
        for over, baseline in baselines.items()
        if baseline.evaluation is not None
    )
    evaluated.run.write(Comparisons(comparisons=found))


def _run(store: ObjectStore, given: str, *, like: RunRequest | None = None) -> Run:
    run = Run(store=store, id=given)
    if run.has(RunRequest):
        return run
    if is_run_id(given):
        raise RunMissing(
            f"there is no run {given} at {store.endpoint}: check the ID and the folder of --output-dir"
        )
    _, record = load_record(given, draft=True)
    newest = newest_run(store, record.id, like=like)
    if newest is None:
        other = "" if like is None else f" other than {like.run}"
        raise RunMissing(
            f"no run of {record.id}{other} is evaluated at {store.endpoint}: train and evaluate one first"
        )
    return newest
