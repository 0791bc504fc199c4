"""What a run saw, beside what its experiment record expected: in S3, in the output folder and in MLflow."""

import datetime
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_av.experiments.outcomes import RunOutcome, make_outcome, write_outcome
from llava_av.experiments.records import ExperimentRecord
from llava_av.registry.baselines import Reference
from llava_av.registry.expectations import Over
from llava_av.storage import ObjectStore
from llava_av.tracking.connection import mlflow_client
from llava_av.tracking.records import mirror_outcome, mirror_record
from llava_av.workflows.baselines import (
    changes_against,
    find_references,
    keep_in_index,
    list_outcomes,
    newest_run,
)
from llava_av.workflows.compare import keep_comparisons
from llava_av.workflows.runs import Run
from llava_av.workflows.runtime.workspace import Workspace
from llava_av.workflows.task_evaluations import read_evaluation

__all__ = ["mirror_registered", "mirror_run", "pull_outcomes", "settle_again", "settle_outcome"]


def settle_outcome(
    workspace: Workspace,
    run: Run,
    evaluation: Mapping[str, Any],
    references: Mapping[Over, Reference],
    *,
    note: str = "",
) -> RunOutcome:
    """Put what was seen beside what was expected, in S3 and in the workspace's copy of the record.

    The record that came with the code stays as it is: a run must not make the checkout differ from the
    commit that its own lineage names.

    Args:
        workspace: has the copy.
        run: the run.
        evaluation: what `read_evaluation` gave.
        references: `parent` and `champion`, as far as there are such.
        note: what a reader must know beside.
    """
    request, code, record = run.request(), run.code(), run.record()
    parent = newest_run(run.store, record.parent, like=run) if record.parent else None
    known = run.find("outcome.json")
    today = datetime.datetime.now(datetime.UTC).date()
    outcome = make_outcome(
        record,
        evaluation,
        run=run.key,
        date=datetime.date.fromisoformat(known["date"]) if known else today,
        seed=request["recipe"]["seed"],
        dataset_commit=request["dataset"]["commit"],
        git_commit=code.git.commit,
        git_dirty=code.git.dirty,
        note=note,
        recipe=request["recipe"]["name"],
        changes=changes_against(run, parent) if parent else (),
        incomplete=request["experiment"].get("incomplete", ()),
        references=references,
    )
    kept = outcome.model_dump(mode="json")
    run.write("outcome.json", kept)
    keep_in_index(run, kept)
    keep_comparisons(run, evaluation, references)
    _write_copy(workspace, run, record, outcome)
    return outcome


def settle_again(workspace: Workspace, run: Run) -> RunOutcome:
    """Put what was seen beside what was expected, after one more evaluation of a run.

    If the run was judged already, the champion is the one that its gate compared it with: what the gate
    decided stays until the run is promoted again.

    Raises:
        RunMissing: the run has not been evaluated on what it held out.
        MlflowError: MLflow cannot be reached, or refuses.
    """
    gate, registered = run.find("gate.json") or {}, run.find("register.json") or {}
    before = gate.get("before")
    other = before is not None and before != registered["version"]
    champion = f"models:/{registered['name']}/{before}" if other else None
    references = find_references(run, run.record(), champion=champion)
    note = (run.find("outcome.json") or {}).get("note", "")
    outcome = settle_outcome(workspace, run, read_evaluation(run), references, note=note)
    if registered:
        mirror_registered(run, outcome)
    return outcome


def pull_outcomes(workspace: Workspace, store: ObjectStore, experiment: str) -> int:
    """Writes what all runs of an experiment saw into the workspace's copy of its record.

    Returns:
        How many runs there are.
    """
    kept = [RunOutcome.model_validate(outcome) for outcome in list_outcomes(store, experiment)]
    for outcome in kept:
        run = Run(store=store, key=outcome.run)
        _write_copy(workspace, run, run.record(), outcome)
    return len(kept)


def mirror_run(run: Run, mlflow_run_id: str, outcome: RunOutcome | None = None) -> None:
    """Tells MLflow what the run is for and, when it is known, what came out.

    Raises:
        MlflowError: MLflow cannot be reached, or refuses.
    """
    request = run.request()
    record = run.record()
    tags = {
        "llava_av.experiment": record.id,
        "llava_av.experiment_sha256": request["experiment"]["sha256"],
        "llava_av.experiment_parent": record.parent or "none",
        "llava_av.experiment_incomplete": "; ".join(request["experiment"].get("incomplete", ())) or "no",
    }
    mirror_record(record.id, mlflow_run_id, run.record_text(), tags)
    if outcome is not None:
        verdicts = [check.met for check in outcome.checks]
        lines = [check.outcome for check in outcome.checks]
        mirror_outcome(mlflow_run_id, f"{verdicts.count(True)} of {len(verdicts)} met", lines)


def mirror_registered(run: Run, outcome: RunOutcome) -> None:
    """Tells the MLflow run of the registered version what came out.

    Raises:
        RunMissing: the run has not been registered.
        MlflowError: MLflow cannot be reached, or refuses.
    """
    version = run.read("register.json", made_by=f"register {run.key}")
    with mlflow_client() as client:
        found = client.get_model_version(version["name"], version["version"]).run_id
    if found:
        mirror_run(run, str(found), outcome)


def _write_copy(workspace: Workspace, run: Run, record: ExperimentRecord, outcome: RunOutcome) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / f"{record.id}.md"
        source.write_text(run.record_text(), encoding="utf-8")
        write_outcome(source, workspace.experiments / source.name, outcome)
