"""Index page of all runs of the bucket, with their reports next to it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llava_av.experiments.outcomes import outcome_row
from llava_av.experiments.overview import ExperimentNode, experiment_tree
from llava_av.experiments.records import (
    ExperimentError,
    ExperimentRecord,
    experiments_folder,
    list_records,
)
from llava_av.files import write_whole
from llava_av.report.labels import ordered_families
from llava_av.report.run_index.index_page import IndexedTask, IndexInputs, write_index
from llava_av.runs import EvaluationResult, Run, RunOutcome
from llava_av.runs.names import REPORT, split_evaluation_place
from llava_av.storage import ObjectStore, map_parallel
from llava_av.vocabulary import Ablation
from llava_av.workflows.indexed_run import StoredRun
from llava_av.workflows.open_run import read_run_record
from llava_av.workflows.runtime.retry import retry_transient
from llava_av.workflows.stored_runs import read_stored_runs

__all__ = ["IndexPage", "index_step"]

_REPORTS = "reports"
_WORKERS = 16
_Sizes = Mapping[str, Mapping[str, int]]
"""Sizes of the objects of each run, by run ID, then by name."""


@dataclass(frozen=True, kw_only=True)
class IndexPage:
    """Index page, and the numbers of its runs and reports."""

    page: Path
    runs: int
    reports: int


@retry_transient
def index_step(store: ObjectStore, folder: Path, *, reports: bool = True) -> IndexPage:
    """Write `index.html` to a folder, and the report of each run below `reports/`.

    Existing reports with the same size as in the bucket are not fetched again.

    Args:
        store: Store of the runs.
        folder: Folder of the page.
        reports: True to fetch reports; without them the page links only those that exist.

    Raises:
        StoreError: S3 cannot be used.
    """
    stored = read_stored_runs(store)
    pages = _reports(
        store, folder, {one.run.id: stored.sizes[one.run.id] for one in stored.runs}, fetch=reports
    )
    runs = stored.rows(pages)
    page = folder / "index.html"
    write_index(
        page,
        IndexInputs(
            bucket=store.uri("").rstrip("/"),
            runs=runs,
            tasks=tuple(_tasks(store, stored.sizes)),
            experiments=_experiments(stored.runs),
        ),
    )
    return IndexPage(page=page, runs=len(runs), reports=len(pages))


def _reports(store: ObjectStore, folder: Path, found: _Sizes, *, fetch: bool) -> dict[str, str]:
    """Return the path of each run's report, relative to the folder."""
    wanted = {run: names[REPORT] for run, names in found.items() if REPORT in names}
    target = folder / _REPORTS
    if fetch and wanted:
        target.mkdir(parents=True, exist_ok=True)
        stale = [run for run, size in wanted.items() if _size(target / f"{run}.html") != size]
        map_parallel(lambda run: _fetch_report(store, run, target / f"{run}.html"), stale)
    return {run: f"{_REPORTS}/{run}.html" for run in wanted if (target / f"{run}.html").is_file()}


def _fetch_report(store: ObjectStore, run: str, path: Path) -> None:
    """Copy a run's report with its seal, so that sizes can be compared; a damaged one is an error."""
    key = Run(store=store, id=run).path(REPORT)
    content = store.get_bytes(key)
    store.unsealed(key, content)
    write_whole(path, content)


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _tasks(store: ObjectStore, sizes: _Sizes) -> Iterable[IndexedTask]:
    """Return the accuracies of models on other tasks, the best of each first."""
    found = [
        (run, name, place)
        for run, names in sizes.items()
        for name in names
        if (place := split_evaluation_place(name)) and name.endswith(f"/{EvaluationResult.NAME}")
    ]
    results = map_parallel(
        lambda one: Run(store=store, id=one[0]).read(
            EvaluationResult, one[1].removesuffix(EvaluationResult.NAME)
        ),
        found,
        workers=_WORKERS,
    )
    rows = [
        IndexedTask(run=run, task=task, step=step, family=family, accuracy=accuracy[family])
        for (run, _, (task, step)), result in zip(found, results, strict=True)
        for accuracy in (result.accuracy.get(Ablation.AUDIO_VISUAL, {}),)
        for family in ordered_families(accuracy)
    ]
    return sorted(rows, key=lambda row: (row.task, row.family, -row.accuracy.value, row.run))


def _experiments(stored: Iterable[StoredRun]) -> tuple[ExperimentNode, ...]:
    """Return the records of the bucket's runs, with their outcomes; the project's text of a record wins."""
    outcomes: dict[str, list[RunOutcome]] = defaultdict(list)
    newest: dict[str, Run] = {}
    for one in stored:
        newest[one.request.experiment.id] = one.run
        if one.outcome is not None:
            outcomes[one.request.experiment.id].append(one.outcome)
    here = _records_here()
    records = {
        experiment: here[experiment] if experiment in here else read_run_record(run)
        for experiment, run in newest.items()
    }
    observed = {
        experiment: tuple(
            dict.fromkeys(
                (
                    *(records[experiment].observed if experiment in records else ()),
                    *map(outcome_row, sorted(rows, key=lambda row: (row.date, row.run))),
                )
            )
        )
        for experiment, rows in outcomes.items()
    }
    return experiment_tree(list(records.values()), observed)


def _records_here() -> dict[str, ExperimentRecord]:
    try:
        return {record.id: record for record in list_records(experiments_folder())}
    except ExperimentError:
        return {}  # The records of the runs are also in the bucket.
