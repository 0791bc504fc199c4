"""History of a model version, collected from MLflow and S3."""

from llava_av.datasets.commits import CommitError, read_commit
from llava_av.experiments.records import ExperimentError, load_record
from llava_av.registry.history import AliasHistory
from llava_av.registry.versions import TamperedError, load_version, require_untouched
from llava_av.report.lineage_tree import NOT_PINNED, ObjectStates, RunHistory, VersionHistory
from llava_av.runs import (
    DatasetName,
    EvaluationResult,
    GateDecision,
    Lineage,
    Registration,
    Run,
    RunOutcome,
    TrainingResult,
)
from llava_av.runs.run import UNVERIFIED, VERIFIED
from llava_av.storage import ObjectDamaged, ObjectStore, map_parallel

__all__ = ["version_history", "version_uri"]

_MOST_ANCESTORS = 20


def version_uri(given: str) -> str:
    """Return `models:/NAME/VERSION` or `models:/NAME@ALIAS`, also for an address without `models:/`."""
    return given if given.startswith("models:/") else f"models:/{given}"


def version_history(store: ObjectStore, uri: str, *, contents: bool = False) -> VersionHistory:
    """Collect the whole history of a model version.

    Args:
        store: Store of the runs.
        uri: `models:/NAME/VERSION` or `models:/NAME@ALIAS`.
        contents: True to read and verify every file of the checkpoint.

    Raises:
        MlflowError: The version does not exist, or MLflow does not answer.
    """
    version = load_version(store, uri)
    lineage = version.lineage
    return VersionHistory(
        registered=version,
        moves=tuple(
            move.line()
            for move in AliasHistory(store, version.name).moves()
            if version.version in (move.version, move.before)
        ),
        checkpoint_state=_checkpoint_state(store, version, contents=contents),
        dataset_parents=tuple(_dataset_parents(store, lineage.dataset)),
        experiment_parents=tuple(_experiment_parents(lineage.experiment.id)),
        run=_run_history(Run(store=store, id=version.run), lineage) if version.run else None,
    )


def _run_history(run: Run, lineage: Lineage) -> RunHistory:
    outcome, names = run.find(RunOutcome), run.names()
    return RunHistory(
        train=run.find(TrainingResult),
        patch_state=_patch_state(run, lineage),
        evaluation=run.find(EvaluationResult),
        gate=run.find(GateDecision),
        outcome=tuple(check.outcome for check in outcome.checks) if outcome is not None else (),
        objects=_object_states(run, names),
        reproductions=tuple(run.reproductions(names)),
    )


def _checkpoint_state(store: ObjectStore, version: Registration, *, contents: bool) -> str:
    try:
        require_untouched(store, version, contents=contents)
    except TamperedError as error:
        return str(error)
    if version.manifest_sha256 is None:
        return f"{NOT_PINNED}: an earlier version registered it without its manifest's checksum"
    return "every file verified" if contents else "manifest verified"


def _patch_state(run: Run, lineage: Lineage) -> str:
    if not lineage.git.patch_sha256:
        return "none"
    try:
        patch = run.patch()
    except ObjectDamaged as error:
        return f"altered: {error}"
    return "lost: it is no longer in the store" if patch is None else "verified"


def _object_states(run: Run, names: list[str]) -> ObjectStates:
    """Verify the objects of a run."""
    states = dict(zip(names, map_parallel(run.object_state, names), strict=True))
    return ObjectStates(
        verified=list(states.values()).count(VERIFIED),
        unverified=tuple(name for name, state in states.items() if state == UNVERIFIED),
        damaged=tuple(state for state in states.values() if state not in (VERIFIED, UNVERIFIED)),
    )


def _dataset_parents(store: ObjectStore, dataset: DatasetName) -> list[str]:
    """Return the commits before the dataset's commit, newest first."""
    found: list[str] = []
    try:
        commit = read_commit(store, dataset.name, dataset.commit)
        while commit.parent is not None and len(found) < _MOST_ANCESTORS:
            found.append(commit.parent)
            commit = read_commit(store, dataset.name, commit.parent)
    except CommitError as error:
        found.append(str(error))
    return found


def _experiment_parents(experiment: str) -> list[str]:
    found: list[str] = []
    try:
        _, record = load_record(experiment, draft=True)
        while record.parent is not None and record.parent not in found:
            found.append(record.parent)
            _, record = load_record(record.parent, draft=True)
    except ExperimentError:
        pass  # The record is in a user's folder, or belongs to code that is not here.
    return found
