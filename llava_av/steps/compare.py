"""Two runs beside each other: what went in, and what came out with the interval of the difference."""

from dataclasses import dataclass

from llava_av.experiments.records import load_record
from llava_av.report.labels import ordered_ablations, ordered_families
from llava_av.steps.references import changes_against, newest_run, reference_to
from llava_av.steps.runs import Run, RunMissing
from llava_av.storage import ObjectStore

__all__ = ["ComparedRow", "Comparison", "compare_runs"]


@dataclass(frozen=True, kw_only=True)
class ComparedRow:
    """One number of both runs."""

    metric: str
    first: float
    second: float
    value: float
    """The second minus the first."""
    interval: str
    how: str
    """Whether the same questions were answered."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What differs between two runs."""

    first: str
    """Key of the run."""
    second: str
    changes: tuple[str, ...]
    """What differs in recipe, dataset and code, a line each."""
    rows: tuple[ComparedRow, ...]


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
    reference = reference_to(run, base, label=first)
    own = run.read("evaluation.json", made_by=f"evaluate {run.key}")
    rows = []
    for ablation in ordered_ablations(own["accuracy"]):
        for family in ordered_families(own["accuracy"][ablation]):
            found = reference.difference(own, "accuracy", ablation, family)
            if found is None:
                continue
            paired = family in reference.paired.get(ablation, {})
            rows.append(
                ComparedRow(
                    metric=f"accuracy.{ablation}.{family}",
                    first=reference.evaluation["accuracy"][ablation][family]["value"],
                    second=own["accuracy"][ablation][family]["value"],
                    value=found["value"],
                    interval=f"{found['low']:+.3f} to {found['high']:+.3f}",
                    how="same questions" if paired else "other questions",
                )
            )
    changes = tuple(change.line().replace("`", "") for change in changes_against(run, base))
    return Comparison(first=base.key, second=run.key, changes=changes, rows=tuple(rows))


def _run(store: ObjectStore, given: str, *, like: Run | None = None) -> Run:
    run = Run(store=store, key=given)
    if run.find("request.json") is not None:
        return run
    _, record = load_record(given, draft=True)
    newest = newest_run(store, record.id, like=like)
    if newest is None:
        raise RunMissing(f"no run of {record.id} has been evaluated at {store.endpoint}: run it first")
    return newest
