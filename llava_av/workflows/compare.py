"""Two models beside each other: what went in, and what came out with the interval of the difference."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llava_av.experiments.records import load_record
from llava_av.registry.baselines import Reference
from llava_av.registry.expectations import Over
from llava_av.report.labels import ordered_ablations, ordered_families
from llava_av.report.run_report.inputs import ComparedNumber, ComparisonView
from llava_av.storage import ObjectStore
from llava_av.workflows.baselines import changes_against, newest_run, reference_to
from llava_av.workflows.runs import Run, RunMissing

__all__ = ["Comparison", "compare_runs", "compared_rows", "keep_comparisons"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What differs between two runs."""

    first: str
    """Key of the run."""
    second: str
    changes: tuple[str, ...]
    """What differs in recipe, dataset and code, a line each."""
    rows: tuple[ComparedNumber, ...]


def compare_runs(store: ObjectStore, first: str, second: str) -> Comparison:
    """Compares two runs, or the newest ones of two experiments.

    Args:
        store: where runs are.
        first: key of a run, or id of an experiment record.
        second: the one that is compared with it.

    Raises:
        RunMissing: there is no such run, or it has not been evaluated.
        ExperimentError: neither a run nor a record has this name.
    """
    base = _run(store, first)
    run = _run(store, second, like=base)
    own = run.read("evaluation.json", made_by=f"evaluate {run.key}")
    rows = compared_rows(own, reference_to(run, base, label=first))
    changes = tuple(change.line().replace("`", "") for change in changes_against(run, base))
    return Comparison(first=base.key, second=run.key, changes=changes, rows=rows)


def compared_rows(own: Mapping[str, Any], reference: Reference) -> tuple[ComparedNumber, ...]:
    """Every accuracy that both have, by ablation and family.

    Args:
        own: evaluation.json of the second model.
        reference: the first one.
    """
    return tuple(
        ComparedNumber(
            ablation=ablation,
            family=family,
            first=reference.evaluation["accuracy"][ablation][family]["value"],
            second=own["accuracy"][ablation][family]["value"],
            value=found["value"],
            low=found["low"],
            high=found["high"],
            paired=family in reference.paired.get(ablation, {}),
        )
        for ablation in ordered_ablations(own["accuracy"])
        for family in ordered_families(own["accuracy"][ablation])
        if (found := reference.difference(own, "accuracy", ablation, family)) is not None
    )


def keep_comparisons(run: Run, own: Mapping[str, Any], references: Mapping[Over, Reference]) -> None:
    """Puts what the run has over its parent and over the champion of its day where the report looks for it.

    Args:
        run: the run.
        own: its evaluation.json.
        references: `parent` and `champion`, as far as there are such.
    """
    found = [
        ComparisonView(over=over, label=reference.label, rows=compared_rows(own, reference)).model_dump(
            mode="json"
        )
        for over, reference in references.items()
        if reference.evaluation
    ]
    run.write("comparisons.json", {"comparisons": found})


def _run(store: ObjectStore, given: str, *, like: Run | None = None) -> Run:
    run = Run(store=store, key=given)
    if run.find("request.json") is not None:
        return run
    _, record = load_record(given, draft=True)
    newest = newest_run(store, record.id, like=like)
    if newest is None:
        raise RunMissing(f"no run of {record.id} has been evaluated at {store.endpoint}: run it first")
    return newest
