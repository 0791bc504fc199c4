"""Opening of runs: a run's ID is a hash of its request, so that equal requests find the same run."""

import datetime
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_av.checkpoints import base_digest, read_base_config
from llava_av.datasets.commits import Commit, find_commits, read_commit
from llava_av.datasets.manifest import commit_key
from llava_av.documents import parse_json_object
from llava_av.experiments.completeness import RecordNeeds, require_record
from llava_av.experiments.records import ExperimentRecord, parse_record
from llava_av.plurals import count_of
from llava_av.provenance.source_code import CodeState, code_state, require_commit
from llava_av.recipe import (
    Recipe,
    current_overrides,
    load_recipe,
    media_differences,
    with_media_of_base,
)
from llava_av.runs import (
    DatasetName,
    ExperimentName,
    Opened,
    Run,
    RunCode,
    RunRequest,
    TrainingResult,
    named_datasets,
)
from llava_av.runs.names import EXPERIMENT_RECORD, PATCH
from llava_av.runs.run import stopwatch
from llava_av.storage import ObjectStore
from llava_av.workflows.commit_data import DEMO, commit_folder, is_demo
from llava_av.workflows.commit_demo import commit_demo
from llava_av.workflows.pending_media import warn_of_pending
from llava_av.workflows.runtime.actor import actor
from llava_av.workflows.runtime.job_target import LOCAL_TARGET, JobTarget, processes_for
from llava_av.workflows.runtime.retry import retry_transient
from llava_av.workflows.runtime.workspace import Workspace

__all__ = [
    "OpenedRun",
    "default_record",
    "open_committed_run",
    "open_run",
    "open_run_step",
    "read_run_record",
    "record_needs",
    "run_id",
]

_LOG = logging.getLogger(__name__)

_ID_DIGITS = 16
_DEMO_RECORD = "dryrun"
_OWN_DATA_RECORD = "own-data"


@dataclass(frozen=True, kw_only=True)
class OpenedRun:
    """A run and the dataset commit that it uses."""

    run: str
    dataset_name: str
    dataset_commit: str
    dataset_uri: str


@retry_transient
def open_run_step(
    workspace: Workspace,
    *,
    recipe: str,
    overrides: str = "{}",
    dataset: str = DEMO,
    dataset_name: str = "",
    experiment: str = "",
    target: JobTarget = LOCAL_TARGET,
    allow_incomplete_record: bool = False,
    commit: str = "",
) -> OpenedRun:
    """Commit the dataset and open the run that trains `recipe` on it.

    Args:
        workspace: Folder in which the demonstration's clips are created.
        recipe: Name, path or JSON text of a recipe.
        overrides: JSON object of dotted path to value.
        dataset: `demo`, a folder, or a committed dataset as `NAME` or `NAME@COMMIT`; several committed ones
            are separated by commas, and the run is evaluated on the first.
        dataset_name: Name to commit a folder under; the folder's own if empty.
        experiment: ID of the experiment record; empty for `default_record`.
        target: Target of the run's jobs; it determines the number of their processes and the parts that the
            record must have.
        allow_incomplete_record: True to accept a record with missing parts.
        commit: Git commit of the code, as 40 hex digits; empty for any code.

    Raises:
        ExperimentError: The record does not exist, or is not complete.
        SourceCodeError: The code does not match `commit`.
    """
    if commit:
        require_commit(code_state(), commit)
    needs = record_needs(target, allow_incomplete=allow_incomplete_record)
    experiment = default_record(experiment, dataset)
    require_record(experiment, needs)
    changes = current_overrides(parse_json_object(overrides, what="overrides"))
    chosen = load_recipe(recipe).with_overrides(changes | processes_for(target.profile))
    store = ObjectStore.from_env()
    store.ensure_bucket()
    chosen = _pinned(chosen)
    with stopwatch() as watch:
        commits = _commits(store, workspace, chosen, dataset, dataset_name)
    committed = commits[0]
    files = count_of(committed.uploaded_files, "file")
    _LOG.info("dataset %s@%s: %s uploaded", committed.name, committed.id, files)
    run = open_committed_run(store, chosen, commits, experiment, needs)
    run.record_seconds("data", watch.seconds)
    uri = store.uri(commit_key(committed.name, committed.id))
    return OpenedRun(run=run.id, dataset_name=committed.name, dataset_commit=committed.id, dataset_uri=uri)


def default_record(experiment: str, dataset: str) -> str:
    """Return the experiment record of a run: the given one, or the default for its dataset.

    Args:
        experiment: ID or path of a record; empty for the default.
        dataset: `demo`, a folder, or committed datasets, of which the first counts.
    """
    name = dataset.partition(",")[0].partition("@")[0].strip()
    return experiment or (_DEMO_RECORD if name == DEMO or is_demo(name) else _OWN_DATA_RECORD)


def _commits(
    store: ObjectStore, workspace: Workspace, recipe: Recipe, dataset: str, name: str
) -> tuple[Commit, ...]:
    """Return the named commits, or commit the demonstration or a folder; see `open_run_step`."""
    if dataset == DEMO:
        return (commit_demo(store, workspace, recipe),)
    if "/" not in dataset and not Path(dataset).exists():
        return find_commits(store, dataset)
    committed = commit_folder(
        store,
        Path(dataset),
        name,
        recipe.data,
        max_audio_s=recipe.media.max_audio_s,
        cache_file=workspace.file_cache,
    )
    return (committed,)


def record_needs(target: JobTarget, *, allow_incomplete: bool) -> RecordNeeds:
    """Return the parts that the record of a run must have: on a cluster, everything.

    Args:
        target: Target of its jobs.
        allow_incomplete: True to accept a record with missing parts.
    """
    if allow_incomplete:
        return "nothing"
    return "parts" if target.launcher == LOCAL_TARGET.launcher else "everything"


def open_committed_run(
    store: ObjectStore,
    recipe: Recipe,
    commits: Sequence[Commit],
    experiment: str,
    needs: RecordNeeds = "parts",
) -> Run:
    """Open the run of a recipe on commits, as part of an experiment; it is evaluated on the first of them."""
    for commit in commits:
        warn_of_pending(store, commit)
    dataset, *further = (DatasetName(name=commit.name, commit=commit.id) for commit in commits)
    return open_run(
        store,
        recipe=recipe,
        dataset=dataset,
        further_datasets=tuple(further),
        experiment=experiment,
        code=code_state(),
        needs=needs,
    )


def run_id(recipe: Recipe, datasets: Sequence[DatasetName], experiment: ExperimentName, code: str) -> str:
    """Return the ID of the run with this request: 16 hex digits.

    Args:
        recipe: The whole recipe.
        datasets: The dataset commits.
        experiment: The experiment record. Its digest is part of the ID, so that expectations cannot change
            after the results of a run are known.
        code: Digest of the code.
    """
    record = f"{experiment.id}@{experiment.sha256}"
    parts = [recipe.identity_json(), named_datasets(datasets), code, record]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:_ID_DIGITS]


def open_run(
    store: ObjectStore,
    *,
    recipe: Recipe,
    dataset: DatasetName,
    further_datasets: tuple[DatasetName, ...] = (),
    experiment: str,
    code: CodeState,
    needs: RecordNeeds = "parts",
) -> Run:
    """Open the run of this request, or find it.

    Code and record are stored as they are now: this code trains, and these expectations are checked.

    Args:
        store: Store of the runs.
        recipe: The whole recipe.
        dataset: The dataset commit that the run is evaluated on, and trained on.
        further_datasets: Further dataset commits that it is trained on.
        experiment: ID of an experiment record, or the path of one.
        code: The code that runs.
        needs: Parts that the record must have; other missing parts are noted in the request.

    Raises:
        ExperimentError: The record does not exist, or lacks a part that it must have.
        CheckpointError: The recipe's base model does not exist.
        RecipeError: `data.mix` does not fit the datasets, or no stage trains the adapter.
    """
    datasets = (dataset, *further_datasets)
    recipe.require_datasets([one.name for one in datasets])
    recipe.require_used_adapter()
    recipe = _with_steps(store, _pinned(recipe), datasets)
    _report_media(recipe)
    path, record, lacks = require_record(experiment, needs)
    about = ExperimentName(id=record.id, sha256=record.digest(), incomplete=lacks)
    run = Run(store=store, id=run_id(recipe, datasets, about, code.digest))
    found = run.find(RunRequest)
    # The recipe can differ in the sharding alone, which matters only until the run is trained.
    if found is not None and (
        (found.datasets, found.experiment) == (datasets, about)
        and (found.recipe == recipe or run.find(TrainingResult) is not None)
    ):
        return run
    store.put_sealed(run.path(EXPERIMENT_RECORD), path.read_bytes())
    if code.patch is not None:
        store.put_bytes(run.path(PATCH), code.patch)
    opened = Opened(by=actor(), at=datetime.datetime.now(datetime.UTC))
    store.create_json(run.path(Opened.NAME), opened.to_json())
    run.write(RunCode(digest=code.digest, git=code.git))
    # Written last: a run with this object is open.
    run.write(
        RunRequest(
            run=run.id,
            recipe=recipe.model_dump(mode="json"),
            dataset=dataset,
            further_datasets=further_datasets,
            experiment=about,
        )
    )
    return run


def read_run_record(run: Run) -> ExperimentRecord:
    """Return the experiment record as it was when the run was opened."""
    return parse_record(run.record_text(), Path(f"{run.request().experiment.id}.md"), draft=True)


def _pinned(recipe: Recipe) -> Recipe:
    """Return the recipe with the digest and the media settings of its base model.

    Different weights give a different run. Media settings that the recipe states stay as they are.
    """
    base = recipe.model.base
    if base is None:
        return recipe
    if recipe.model.base_digest is None:
        recipe = recipe.with_overrides({"model.base_digest": base_digest(base)})
    return with_media_of_base(recipe, read_base_config(base))


def _with_steps(store: ObjectStore, recipe: Recipe, datasets: Sequence[DatasetName]) -> Recipe:
    """Return the recipe with the steps of the epochs that it names."""
    if not recipe.has_epochs:
        return recipe
    commits = [read_commit(store, one.name, one.commit) for one in datasets]
    splits = {one.name: one.manifest.splits.get("train") for one in commits}
    return recipe.with_steps_of_epochs({name: one.samples if one else 0 for name, one in splits.items()})


def _report_media(recipe: Recipe) -> None:
    """Warn of each media setting of the recipe that differs from the base model's."""
    if recipe.model.base is None:
        return
    for difference in media_differences(recipe, read_base_config(recipe.model.base)):
        _LOG.warning("recipe %s: the model is trained with another setting: %s", recipe.name, difference)
