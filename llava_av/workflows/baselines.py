"""The runs that a run is compared with: its parent experiment's and the champion's, question by question."""

import datetime
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from llava_av.datasets.schema import family
from llava_av.evaluation.statistics import paired_bootstrap
from llava_av.experiments.changes import Change, changes_between
from llava_av.experiments.records import ExperimentRecord
from llava_av.registry.baselines import Reference
from llava_av.registry.expectations import Over
from llava_av.registry.versions import RegisteredVersion, load_version
from llava_av.storage import ObjectStore
from llava_av.workflows.runs import Run
from llava_av.workflows.task_evaluations import read_evaluation, task_places

__all__ = [
    "changes_against",
    "find_references",
    "keep_in_index",
    "list_outcomes",
    "newest_run",
    "reference_to",
]

_Question = tuple[str, str, str, str]


def find_references(
    run: Run, record: ExperimentRecord, *, champion: str | None = None
) -> dict[Over, Reference]:
    """What the run's numbers can be compared with.

    Args:
        run: the run, evaluated.
        record: its experiment record.
        champion: `models:/NAME/VERSION` of the champion; None if there is none, or that is not asked for.

    Raises:
        MlflowError: MLflow does not answer.
    """
    found: dict[Over, Reference] = {}
    parent = newest_run(run.store, record.parent, like=run) if record.parent else None
    if parent is not None:
        found["parent"] = reference_to(run, parent, label=f"run {parent.key} of {record.parent}")
    if champion is not None:
        found["champion"] = _champion(run, load_version(run.store, champion))
    return found


def reference_to(run: Run, other: Run, *, label: str) -> Reference:
    """Another run as what this one is compared with, paired where both answered the same questions."""
    own, evaluation = read_evaluation(run), read_evaluation(other)
    mine, theirs = task_places(run), task_places(other)
    tasks = {
        task: Reference(label=label, evaluation=found, paired=_paired(run, other, mine[task], theirs[task]))
        for task, found in evaluation["tasks"].items()
        if _asked_the_same(own["tasks"].get(task, {}), found)
    }
    return Reference(label=label, evaluation=evaluation, paired=_paired(run, other), tasks=tasks)


def _asked_the_same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    return all(first.get(name) == second[name] for name in ("task", "dataset"))


def _champion(run: Run, champion: RegisteredVersion) -> Reference:
    """The champion; one that was never evaluated has no numbers, so that nothing holds over it."""
    label, key = f"version {champion.version}", champion.run
    if not key:
        return Reference(label=f"{label}, whose lineage names no run", evaluation={})
    other = Run(store=run.store, key=key)
    if other.find("evaluation.json") is None:
        return Reference(label=f"{label}, whose run {key} has no evaluation.json", evaluation={})
    return reference_to(run, other, label=label)


def keep_in_index(run: Run, outcome: Mapping[str, Any]) -> None:
    """Put what a run saw where the runs of its experiment are looked for."""
    experiment = run.request()["experiment"]["id"]
    run.store.put_json(f"{_index(experiment)}{run.key}.json", dict(outcome))


def newest_run(store: ObjectStore, experiment: str, *, like: Run | None = None) -> Run | None:
    """The newest evaluated run of an experiment; None if there is none.

    Args:
        store: where runs are.
        experiment: id of the record.
        like: a run that it is compared with: one on the same dataset commit comes before newer ones, and one
            with the recipe that the record names before any other.
    """
    commit = like.request()["dataset"]["commit"] if like else ""
    best: tuple[tuple[bool, bool, datetime.date, str], str] | None = None
    for outcome in list_outcomes(store, experiment):
        run = Run(store=store, key=outcome["run"])
        if (like is not None and run.key == like.key) or run.find("evaluation.json") is None:
            continue
        recipe = run.record().recipe or ""
        rank = (
            outcome.get("recipe") == recipe,
            outcome["dataset_commit"] == commit,
            datetime.date.fromisoformat(outcome["date"]),
            run.key,
        )
        best = max(best or (rank, run.key), (rank, run.key))
    return Run(store=store, key=best[1]) if best else None


def list_outcomes(store: ObjectStore, experiment: str) -> list[dict[str, Any]]:
    """What each evaluated run of an experiment saw, as `RunOutcome` has it, oldest first."""
    keys = [info.key for info in store.list(_index(experiment))]
    outcomes = [store.get_json(key) for key in sorted(keys)]
    return sorted(outcomes, key=lambda outcome: str(outcome["date"]))


def changes_against(run: Run, other: Run) -> tuple[Change, ...]:
    """What differs between two runs: recipe, dataset commit and code."""
    first, second = other.request(), run.request()
    changes = changes_between(
        (first["recipe"], _dataset(first)),
        (second["recipe"], _dataset(second)),
    )
    before, after = other.code(), run.code()
    if before.digest != after.digest:
        named = (str(state.git.commit or state.digest)[:12] for state in (before, after))
        changes += (Change(what="code", before=next(named), after=next(named)),)
    return changes


def _dataset(request: Mapping[str, Any]) -> str:
    return f"{request['dataset']['name']}@{request['dataset']['commit']}"


def _index(experiment: str) -> str:
    return f"experiments/{experiment}/"


def _paired(run: Run, other: Run, at: str = "", other_at: str = "") -> dict[str, dict[str, dict[str, float]]]:
    """Differences by ablation and family of the questions that both answered; empty if they are others.

    `at` is where below its run each evaluation is; empty for what was held out.
    """
    mine, theirs = _answers(run, at), _answers(other, other_at)
    recipe = run.recipe()
    found: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for ablation, kind in mine.keys() & theirs.keys():
        first, second = mine[ablation, kind], theirs[ablation, kind]
        if first.keys() != second.keys():
            return {}
        order: Collection[_Question] = sorted(first)
        found[ablation][kind] = paired_bootstrap(
            [first[key][0] for key in order],
            [second[key][0] for key in order],
            [first[key][1] for key in order],
            draws=recipe.evaluation.bootstrap_draws,
            seed=recipe.seed,
        ).model_dump()
    return dict(found)


def _answers(run: Run, at: str) -> dict[tuple[str, str], dict[_Question, tuple[bool, str]]]:
    """By ablation and family: whether each question was answered rightly, and its clip."""
    found: dict[tuple[str, str], dict[_Question, tuple[bool, str]]] = defaultdict(dict)
    for row in run.predictions(at):
        key = (row["id"], row["kind"], row["question"], row["answer"])
        cluster = row.get("clip") or f"sample {row['id']}"
        found[row["ablation"], family(row["kind"])][key] = (row["correct"], cluster)
    return found
