"""Opening a run: its ID is a hash of the request, so that an equal request finds the same run."""

import datetime
import hashlib
import json
from pathlib import Path

from llava_av.checkpoints import base_digest
from llava_av.experiments.completeness import RecordNeeds, require_record
from llava_av.experiments.records import ExperimentRecord, parse_record
from llava_av.provenance.source_code import CodeState
from llava_av.recipe import Recipe
from llava_av.runs import DatasetName, ExperimentName, Opened, Run, RunCode, RunRequest
from llava_av.runs.names import EXPERIMENT_RECORD, PATCH
from llava_av.storage import ObjectStore
from llava_av.workflows.runtime.actor import actor

__all__ = ["open_run", "read_run_record", "run_id"]

_ID_DIGITS = 16


def run_id(recipe: Recipe, dataset: DatasetName, experiment: ExperimentName, code: str) -> str:
    """Return the ID of the run with this request: 16 hex digits.

    Args:
        recipe: The whole recipe.
        dataset: The dataset commit.
        experiment: The experiment record. Its digest is part of the ID, so that nobody changes expectations
            after the results of a run are known.
        code: Digest of the code.
    """
    record = f"{experiment.id}@{experiment.sha256}"
    parts = [recipe.identity_json(), str(dataset), code, record]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:_ID_DIGITS]


def open_run(
    store: ObjectStore,
    *,
    recipe: Recipe,
    dataset: DatasetName,
    experiment: str,
    code: CodeState,
    needs: RecordNeeds = "parts",
) -> Run:
    """Open the run of this request, or find it.

    Code and record are stored as they are when the run is opened: this code trains, and these expectations
    are checked.

    Args:
        store: Store of the runs.
        recipe: The whole recipe.
        dataset: The dataset commit.
        experiment: ID of an experiment record, or the path of one.
        code: The code that runs.
        needs: Parts that the record must have; other missing parts are noted in the request.

    Raises:
        ExperimentError: The record does not exist, or lacks a part that it must have.
        CheckpointError: The recipe's base model does not exist.
    """
    recipe = _pinned(recipe)
    path, record, lacks = require_record(experiment, needs)
    about = ExperimentName(id=record.id, sha256=record.digest(), incomplete=lacks)
    run = Run(store=store, id=run_id(recipe, dataset, about, code.digest))
    found = run.find(RunRequest)
    if found is not None and (found.recipe, found.dataset, found.experiment) == (recipe, dataset, about):
        return run
    store.put_sealed(run.path(EXPERIMENT_RECORD), path.read_bytes())
    if code.patch is not None:
        store.put_bytes(run.path(PATCH), code.patch)
    opened = Opened(by=actor(), at=datetime.datetime.now(datetime.UTC))
    store.create_json(run.path(Opened.NAME), opened.to_json())
    run.write(RunCode(digest=code.digest, git=code.git))
    # Last: a run with this object is open.
    run.write(
        RunRequest(run=run.id, recipe=recipe.model_dump(mode="json"), dataset=dataset, experiment=about)
    )
    return run


def read_run_record(run: Run) -> ExperimentRecord:
    """Return the experiment record as it was when the run was opened."""
    return parse_record(run.record_text(), Path(f"{run.request().experiment.id}.md"), draft=True)


def _pinned(recipe: Recipe) -> Recipe:
    """Return the recipe with the digest of its base model, so that other weights give another run."""
    if recipe.model.base is None or recipe.model.base_digest is not None:
        return recipe
    return recipe.with_overrides({"model.base_digest": base_digest(recipe.model.base)})
