"""All runs of a bucket with the aliases of their model versions, for listings and the index page."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from llava_av.registry.history import AliasHistory
from llava_av.report.run_index.index_page import IndexedRun
from llava_av.runs import Run, RunMissing
from llava_av.runs.names import RUNS
from llava_av.storage import ObjectStore, map_parallel
from llava_av.workflows.indexed_run import AliasesByVersion, StoredRun, indexed_run, read_stored_run
from llava_av.workflows.runtime.retry import retry_transient

__all__ = ["StoredRuns", "read_one_run", "read_stored_runs"]

_MODELS = "models/"
_WORKERS = 16


@dataclass(frozen=True, kw_only=True)
class StoredRuns:
    """Runs of a bucket, the newest first."""

    runs: tuple[StoredRun, ...]
    aliases: AliasesByVersion
    sizes: Mapping[str, Mapping[str, int]]
    """Sizes of all objects of runs, and of evaluated models that no run trained, by run ID, then by name."""

    def rows(self, reports: Mapping[str, str]) -> tuple[IndexedRun, ...]:
        """Return the rows of the runs.

        Args:
            reports: Path of each existing report by run ID.
        """
        return tuple(indexed_run(one, self.aliases, reports.get(one.run.id, "")) for one in self.runs)


@retry_transient
def read_stored_runs(store: ObjectStore) -> StoredRuns:
    """Read all runs of a bucket.

    Raises:
        StoreError: S3 cannot be used.
    """
    sizes = _sizes(store)
    read = map_parallel(
        lambda run: read_stored_run(Run(store=store, id=run), sizes[run]), sizes, workers=_WORKERS
    )
    found = [one for one in read if one is not None]
    # Earlier versions did not record when a run was opened: those runs come last.
    found.sort(key=lambda one: (one.at.timestamp() if one.at else 0.0, one.run.id), reverse=True)
    return StoredRuns(runs=tuple(found), aliases=_aliases(store), sizes=sizes)


@retry_transient
def read_one_run(store: ObjectStore, run_id: str) -> tuple[StoredRun, IndexedRun]:
    """Read one run, and its row in listings.

    Raises:
        RunMissing: There is no run with this ID.
    """
    run = Run(store=store, id=run_id)
    stored = read_stored_run(run, dict.fromkeys(run.names(), 0))
    if stored is None:
        raise RunMissing(
            f"there is no run {run_id} at {store.endpoint}: `llava-av runs list` shows all, and --output-dir "
            "names another folder"
        )
    return stored, indexed_run(stored, _aliases(store), "")


def _sizes(store: ObjectStore) -> dict[str, dict[str, int]]:
    """Return the sizes of all objects of runs, from a single listing."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for info in store.list(RUNS):
        run, _, name = info.key.removeprefix(RUNS).partition("/")
        found[run][name] = info.size
    return dict(found)


def _aliases(store: ObjectStore) -> AliasesByVersion:
    """Return the aliases of each model version, from the record of moves."""
    models = sorted({info.key.removeprefix(_MODELS).split("/")[0] for info in store.list(_MODELS)})
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for model in models:
        for alias, version in AliasHistory(store, model).holders().items():
            found[model, version] = (*found.get((model, version), ()), alias)
    return found
