"""Outcome of a run: observed values and the record's expectations, in S3, in files and in MLflow."""

import datetime
import tempfile
from pathlib import Path

from llava_av.experiments.outcomes import make_outcome, write_outcome
from llava_av.experiments.records import ExperimentRecord
from llava_av.runs import GateDecision, Registration, Run, RunOutcome, RunRequest
from llava_av.storage import ObjectStore
from llava_av.tracking.connection import mlflow_client
from llava_av.tracking.mirrored_records import mirror_outcome, mirror_record
from llava_av.workflows.baseline_runs import (
    Baselines,
    changes_against,
    find_baselines,
    list_outcomes,
    write_outcome_index,
)
from llava_av.workflows.compare import write_comparisons
from llava_av.workflows.evaluated_run import EvaluatedRun
from llava_av.workflows.open_run import read_run_record
from llava_av.workflows.runtime.workspace import Workspace

__all__ = ["mirror_registered", "mirror_run", "pull_outcomes", "settle_again", "settle_outcome"]


def settle_outcome(
    workspace: Workspace, evaluated: EvaluatedRun, baselines: Baselines, *, note: str = ""
) -> RunOutcome:
    """Check every expectation of a run's record, and write the outcome to S3 and to the workspace's record.

    The record in the checkout stays unchanged, so that the checkout still matches the commit in the run's
    lineage.

    Args:
        workspace: Folder with the copies of records.
        evaluated: The run.
        baselines: Models to compare it with.
        note: A remark for readers.
    """
    run, request, code = evaluated.run, evaluated.request, evaluated.run.code()
    known = run.find(RunOutcome)
    outcome = make_outcome(
        evaluated.record,
        evaluated.evaluation,
        run=run.id,
        date=known.date if known else datetime.datetime.now(datetime.UTC).date(),
        seed=request.recipe.seed,
        dataset_commit=request.dataset.commit,
        git_commit=code.git.commit,
        git_dirty=code.git.dirty,
        note=note,
        recipe=request.recipe.name,
        changes=changes_against(run, baselines.parent) if baselines.parent else (),
        incomplete=request.experiment.incomplete,
        baselines=baselines.by_name,
    )
    run.write(outcome)
    write_outcome_index(run, request.experiment.id, outcome)
    write_comparisons(evaluated, baselines.by_name)
    _write_copy(workspace, evaluated.record, evaluated.record_text, outcome)
    return outcome


def settle_again(workspace: Workspace, evaluated: EvaluatedRun) -> RunOutcome:
    """Settle the outcome again after another evaluation of a run.

    If the gate has already decided, compare with the champion of that decision, which stays valid until the
    run is promoted again.

    Raises:
        MlflowError: MLflow cannot be reached or rejects the request.
    """
    run = evaluated.run
    gate, registered, known = run.find(GateDecision), run.find(Registration), run.find(RunOutcome)
    champion = None
    if gate is not None and registered is not None and gate.before not in (None, registered.version):
        champion = f"models:/{registered.name}/{gate.before}"
    baselines = find_baselines(evaluated, champion=champion)
    outcome = settle_outcome(workspace, evaluated, baselines, note=known.note if known else "")
    if registered is not None:
        mirror_registered(registered, evaluated, outcome)
    return outcome


def pull_outcomes(workspace: Workspace, store: ObjectStore, experiment: str) -> int:
    """Write the outcomes of all runs of an experiment to the workspace's copy of its record.

    Returns:
        The number of runs.
    """
    outcomes = list_outcomes(store, experiment)
    for outcome in outcomes:
        run = Run(store=store, id=outcome.run)
        _write_copy(workspace, read_run_record(run), run.record_text(), outcome)
    return len(outcomes)


def mirror_run(
    request: RunRequest,
    record: ExperimentRecord,
    record_text: str,
    mlflow_run_id: str,
    outcome: RunOutcome | None = None,
) -> None:
    """Write a run's experiment record to MLflow and, if it is known, the outcome.

    Raises:
        MlflowError: MLflow cannot be reached or rejects the request.
    """
    experiment = request.experiment
    tags = {
        "llava_av.experiment": record.id,
        "llava_av.experiment_sha256": experiment.sha256 or "",
        "llava_av.experiment_parent": record.parent or "none",
        "llava_av.experiment_incomplete": "; ".join(experiment.incomplete) or "no",
    }
    mirror_record(record.id, mlflow_run_id, record_text, tags)
    if outcome is not None:
        verdicts = [check.met for check in outcome.checks]
        lines = [check.outcome for check in outcome.checks]
        mirror_outcome(mlflow_run_id, f"{verdicts.count(True)} of {len(verdicts)} met", lines)


def mirror_registered(registered: Registration, evaluated: EvaluatedRun, outcome: RunOutcome) -> None:
    """Write record and outcome to the MLflow run of a registered version.

    Raises:
        MlflowError: MLflow cannot be reached or rejects the request.
    """
    with mlflow_client() as client:
        found = client.get_model_version(registered.name, registered.version).run_id
    if found:
        mirror_run(evaluated.request, evaluated.record, evaluated.record_text, str(found), outcome)


def _write_copy(workspace: Workspace, record: ExperimentRecord, text: str, outcome: RunOutcome) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / f"{record.id}.md"
        source.write_text(text, encoding="utf-8")
        write_outcome(source, workspace.experiments / source.name, outcome)
