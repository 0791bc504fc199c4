"""Model card of a run's version, stored next to its registration."""

from llava_av.datasets.commits import read_commit
from llava_av.registry.history import AliasHistory
from llava_av.registry.versions import load_version
from llava_av.report.model_card.card import CardExperiment, render_model_card
from llava_av.runs import GateDecision, Registration, Run, RunMissing, RunOutcome
from llava_av.runs.names import MODEL_CARD
from llava_av.storage import ObjectMissing, ObjectStore
from llava_av.tracking.mirrored_records import describe_version
from llava_av.workflows.evaluated_run import EvaluatedRun

__all__ = ["read_model_card", "write_model_card"]


def write_model_card(
    evaluated: EvaluatedRun, registered: Registration, gate: GateDecision, outcome: RunOutcome
) -> str:
    """Write the card of a run's version to S3 and its address to MLflow; return the card.

    Raises:
        MlflowError: MLflow does not answer or rejects the request.
    """
    run, record, dataset = evaluated.run, evaluated.record, evaluated.request.dataset
    manifest = read_commit(run.store, dataset.name, dataset.commit).manifest
    card = render_model_card(
        registered=registered,
        train=evaluated.train,
        evaluation=evaluated.evaluation,
        gate=gate,
        experiment=CardExperiment(
            id=record.id,
            title=record.title,
            hypothesis=record.hypothesis,
            incomplete=outcome.incomplete,
            outcomes=tuple(check.outcome for check in outcome.checks),
        ),
        splits={split: entry.samples for split, entry in manifest.splits.items()},
        quarantined=len(manifest.quarantined),
        moves=AliasHistory(run.store, registered.name).uri,
    )
    run.store.put_sealed(run.path(MODEL_CARD), card.encode())
    uri = run.store.uri(run.path(MODEL_CARD))
    describe_version(registered.name, registered.version, _description(card, uri, registered), uri)
    return card


def _description(card: str, uri: str, registered: Registration) -> str:
    """Return the card as MLflow shows it: where its files are, then its text without the front matter."""
    _, _, text = card.split("---\n", 2)
    command = f"llava-av model export models:/{registered.name}/{registered.version} FOLDER"
    model = f"{registered.lineage.checkpoint.uri}/model/"
    return f"Model card: {uri}. Hugging Face folder: {model}; `{command}` fetches and verifies it.\n{text}"


def read_model_card(store: ObjectStore, uri: str) -> str:
    """Return the card of a model version.

    Args:
        store: Store of the runs.
        uri: `models:/NAME/VERSION` or `models:/NAME@ALIAS`.

    Raises:
        MlflowError: The version does not exist, or MLflow does not answer.
        RunMissing: It has no card yet.
    """
    run = Run(store=store, id=str(load_version(store, uri).run))
    try:
        return store.get_sealed(run.path(MODEL_CARD)).decode()
    except ObjectMissing:
        raise RunMissing(f"{uri} has no model card yet: run `llava-av promote {run.id}` first") from None
