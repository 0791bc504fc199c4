"""Make index.html: all runs of the bucket on one page, with their reports beside it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_av.evaluation.ablations import AUDIO_VISUAL, SHUFFLED_AUDIO
from llava_av.experiments.outcomes import RunOutcome
from llava_av.experiments.overview import ExperimentNode, experiment_tree
from llava_av.experiments.records import (
    ExperimentError,
    ExperimentRecord,
    experiments_folder,
    list_records,
)
from llava_av.registry.history import AliasHistory
from llava_av.report.labels import ordered_ablations, ordered_families
from llava_av.report.run_index.index import IndexedRun, IndexedTask, IndexInputs, write_index
from llava_av.report.run_report.summary import Accuracy
from llava_av.storage import ObjectStore, map_parallel
from llava_av.workflows.runs import Run
from llava_av.workflows.runtime.retry import retry_transient

__all__ = ["MadeIndex", "index_step"]

_RUNS, _MODELS = "runs/", "models/"
_REPORTS = "reports"
_PARTS = (
    "request.json",
    "opened.json",
    "code.json",
    "train.json",
    "evaluation.json",
    "register.json",
    "gate.json",
    "outcome.json",
)
_WORKERS = 16


@dataclass(frozen=True, kw_only=True)
class MadeIndex:
    """Where the index is, and how much it holds."""

    page: Path
    runs: int
    reports: int


@retry_transient
def index_step(store: ObjectStore, folder: Path, *, reports: bool = True) -> MadeIndex:
    """Writes `index.html` to a folder, and the report of each run below `reports/`.

    Reports that lie there already and are the same size as the bucket's are not fetched again.

    Args:
        store: where runs are.
        folder: where the page goes.
        reports: whether the reports are fetched; without them the page links only those that are there.

    Raises:
        StoreError: S3 cannot be used.
    """
    found = _listed(store)
    kept = map_parallel(lambda key: _kept(store, key, found[key]), found, workers=_WORKERS)
    parts = {key: row for key, row in zip(found, kept, strict=True) if "request.json" in row}
    pages = _reports(store, folder, {key: found[key] for key in parts}, fetch=reports)
    aliases = _aliases(store)
    runs = [_indexed(key, row, aliases, pages.get(key, "")) for key, row in parts.items()]
    # Of an older run the day is not known: it comes last.
    runs.sort(key=lambda run: (run.at.timestamp() if run.at else 0.0, run.run), reverse=True)
    page = folder / "index.html"
    write_index(
        page,
        IndexInputs(
            bucket=store.uri("").rstrip("/"),
            runs=tuple(runs),
            tasks=tuple(_tasks(store, found)),
            experiments=_experiments(store, parts),
        ),
    )
    return MadeIndex(page=page, runs=len(runs), reports=len(pages))


def _listed(store: ObjectStore) -> dict[str, dict[str, int]]:
    """Sizes of what each run holds, by its key and then by name: one listing instead of many questions."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for info in store.list(_RUNS):
        key, _, name = info.key.removeprefix(_RUNS).partition("/")
        found[key][name] = info.size
    return dict(found)


def _kept(store: ObjectStore, key: str, names: Mapping[str, int]) -> dict[str, Any]:
    run = Run(store=store, key=key)
    return {name: run.find(name) for name in _PARTS if name in names}


def _reports(
    store: ObjectStore, folder: Path, found: Mapping[str, Mapping[str, int]], *, fetch: bool
) -> dict[str, str]:
    """Where the report of each run is, as seen from the folder."""
    wanted = {key: names["report.html"] for key, names in found.items() if "report.html" in names}
    target = folder / _REPORTS
    if fetch and wanted:
        target.mkdir(parents=True, exist_ok=True)
        stale = [key for key, size in wanted.items() if _size(target / f"{key}.html") != size]
        map_parallel(lambda key: _fetch_report(store, key, target / f"{key}.html"), stale)
    return {key: f"{_REPORTS}/{key}.html" for key in wanted if (target / f"{key}.html").is_file()}


def _fetch_report(store: ObjectStore, key: str, path: Path) -> None:
    """Copy a run's report as it is stored, so that sizes can be compared; a damaged one is an error."""
    name = f"{_RUNS}{key}/report.html"
    stored = store.get_bytes(name)
    store.unsealed(name, stored)
    part = path.with_suffix(".part")
    part.write_bytes(stored)
    part.replace(path)


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _aliases(store: ObjectStore) -> dict[tuple[str, str], tuple[str, ...]]:
    """Aliases of each model version, by the record of moves."""
    models = sorted({info.key.removeprefix(_MODELS).split("/")[0] for info in store.list(_MODELS)})
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for model in models:
        for alias, version in AliasHistory(store, model).holders().items():
            found[model, version] = (*found.get((model, version), ()), alias)
    return found


def _indexed(
    key: str, parts: Mapping[str, Any], aliases: Mapping[tuple[str, str], tuple[str, ...]], report: str
) -> IndexedRun:
    request, git = parts["request.json"], (parts.get("code.json") or {}).get("git", {})
    opened, registered = parts.get("opened.json") or {}, parts.get("register.json") or {}
    name, version = str(registered.get("name", "")), str(registered.get("version", ""))
    return IndexedRun(
        run=key,
        experiment=request["experiment"]["id"],
        recipe=request["recipe"]["name"],
        dataset=f"{request['dataset']['name']}@{request['dataset']['commit'][:10]}",
        seed=request["recipe"].get("seed"),
        at=opened.get("at") or _day(parts.get("outcome.json")),
        by=opened.get("by", ""),
        commit=git.get("commit") or (parts.get("code.json") or {}).get("digest", ""),
        dirty=bool(git.get("dirty")),
        gate=_gate(parts.get("gate.json")),
        version=f"{name} {version}".strip(),
        aliases=aliases.get((name, version), ()),
        process_hours=_process_hours(parts),
        state="evaluated" if "evaluation.json" in parts else "trained" if "train.json" in parts else "opened",
        report=report,
        **_outcome(parts.get("outcome.json")),
        **_headline((parts.get("evaluation.json") or {}).get("accuracy") or {}),
    )


def _day(outcome: Mapping[str, Any] | None) -> str | None:
    """When a run was judged, for one that was opened before that was kept."""
    return f"{outcome['date']}T00:00:00Z" if outcome else None


def _gate(gate: Mapping[str, Any] | None) -> str:
    return "" if gate is None else {True: "passed", False: "failed", None: "not run"}[gate["passed"]]


def _process_hours(parts: Mapping[str, Any]) -> float | None:
    train = parts.get("train.json") or {}
    cost = (parts.get("evaluation.json") or {}).get("cost") or {}
    seconds = train.get("seconds", 0.0) * train.get("processes", 1) + cost.get("seconds", 0.0)
    return seconds / 3600 if train else None


def _outcome(outcome: Mapping[str, Any] | None) -> dict[str, int]:
    verdicts = [check["met"] for check in (outcome or {}).get("checks", ())]
    return {
        "met": verdicts.count(True),
        "missed": verdicts.count(False),
        "unmeasured": verdicts.count(None),
    }


def _headline(accuracy: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The questions that need most, given everything and with the best that is left of a modality removed."""
    rows = {name: cells for name, cells in accuracy.items() if cells}
    if AUDIO_VISUAL.name not in rows:
        return {}
    families = ordered_families(rows[AUDIO_VISUAL.name])
    family = "joint" if "joint" in families else families[0]
    removed = [
        name
        for name in ordered_ablations(rows)
        if name not in (AUDIO_VISUAL.name, SHUFFLED_AUDIO.name) and family in rows[name]
    ]
    best = max(removed, key=lambda name: rows[name][family]["value"], default=None)
    found = {"family": family, "accuracy": Accuracy.model_validate(rows[AUDIO_VISUAL.name][family])}
    if best is None:
        return found
    return {**found, "without": Accuracy.model_validate(rows[best][family]), "without_ablation": best}


def _tasks(store: ObjectStore, found: Mapping[str, Mapping[str, int]]) -> Iterable[IndexedTask]:
    """What models came to on benchmarks, best of each first."""
    keys = [
        (key, name)
        for key, names in found.items()
        for name in names
        if name.startswith("evaluations/") and name.endswith("/evaluation.json")
    ]
    read = map_parallel(lambda one: store.get_json(f"{_RUNS}{one[0]}/{one[1]}"), keys, workers=_WORKERS)
    rows = [
        IndexedTask(
            run=key,
            task=name.split("/")[1],
            step=int(name.split("/")[2].removeprefix("step-")),
            family=family,
            accuracy=Accuracy.model_validate(evaluation["accuracy"][AUDIO_VISUAL.name][family]),
        )
        for (key, name), evaluation in zip(keys, read, strict=True)
        for family in ordered_families(evaluation["accuracy"].get(AUDIO_VISUAL.name, {}))
    ]
    return sorted(rows, key=lambda row: (row.task, row.family, -row.accuracy.value, row.run))


def _experiments(store: ObjectStore, parts: Mapping[str, Mapping[str, Any]]) -> tuple[ExperimentNode, ...]:
    """The records of the checkout and those that runs were opened with, with what runs of the bucket saw."""
    outcomes: dict[str, list[RunOutcome]] = defaultdict(list)
    newest: dict[str, str] = {}
    for key, row in parts.items():
        newest[row["request.json"]["experiment"]["id"]] = key
        if row.get("outcome.json"):
            outcomes[row["request.json"]["experiment"]["id"]].append(
                RunOutcome.model_validate(row["outcome.json"])
            )
    records = _records_here()
    for experiment, key in newest.items():
        if experiment not in records:
            records[experiment] = Run(store=store, key=key).record()
    seen = {
        experiment: tuple(
            dict.fromkeys(
                (
                    *(records[experiment].observed if experiment in records else ()),
                    *(outcome.row() for outcome in sorted(rows, key=lambda row: (row.date, row.run))),
                )
            )
        )
        for experiment, rows in outcomes.items()
    }
    return experiment_tree(_rooted(list(records.values())), seen)


def _records_here() -> dict[str, ExperimentRecord]:
    try:
        return {record.id: record for record in list_records(experiments_folder())}
    except ExperimentError:
        return {}  # code without its records; those of the runs are in the bucket


def _rooted(records: Sequence[ExperimentRecord]) -> list[ExperimentRecord]:
    """The records, where those whose parent is not among them begin a tree of their own."""
    ids = {record.id for record in records}
    return [
        record if record.parent in ids else record.model_copy(update={"parent": None}) for record in records
    ]
