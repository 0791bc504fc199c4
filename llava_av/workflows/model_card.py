"""The model card of a run's version, kept beside its registration."""

from llava_av.datasets.commits import read_commit
from llava_av.experiments.outcomes import RunOutcome
from llava_av.registry.history import AliasHistory
from llava_av.registry.versions import load_version
from llava_av.report.model_card.card import render_model_card
from llava_av.storage import ObjectMissing, ObjectStore
from llava_av.tracking.records import describe_version
from llava_av.workflows.runs import TRAIN_COMMAND, Run, RunMissing
from llava_av.workflows.task_evaluations import read_evaluation

__all__ = ["keep_model_card", "read_model_card"]

_CARD = "model-card.md"


def keep_model_card(run: Run) -> str:
    """Write the card of a registered, evaluated and judged run to S3 and name it in MLflow; returns it.

    Raises:
        RunMissing: a step that must come first has not been done.
        MlflowError: MLflow does not answer, or refuses.
    """
    registered = run.read("register.json", made_by=f"register {run.key}")
    outcome = RunOutcome.model_validate(run.read("outcome.json", made_by=f"evaluate {run.key}"))
    dataset, record = run.request()["dataset"], run.record()
    manifest = read_commit(run.store, dataset["name"], dataset["commit"]).manifest
    card = render_model_card(
        registered=registered,
        train=run.read("train.json", made_by=TRAIN_COMMAND),
        evaluation=read_evaluation(run),
        gate=run.read("gate.json", made_by=f"promote {run.key}"),
        experiment={
            "id": record.id,
            "title": record.title,
            "hypothesis": record.hypothesis,
            "incomplete": outcome.incomplete,
        },
        outcomes=tuple(check.outcome for check in outcome.checks),
        splits={split: entry.samples for split, entry in manifest.splits.items()},
        quarantined=len(manifest.quarantined),
        moves=AliasHistory(run.store, registered["name"]).uri,
    )
    run.store.put_sealed(run.path(_CARD), card.encode())
    uri = run.store.uri(run.path(_CARD))
    describe_version(registered["name"], registered["version"], f"{record.title}. Model card: {uri}", uri)
    return card


def read_model_card(store: ObjectStore, uri: str) -> str:
    """The card of a model version.

    Args:
        store: where runs are.
        uri: `models:/NAME/VERSION` or `models:/NAME@ALIAS`.

    Raises:
        MlflowError: no such version, or MLflow does not answer.
        RunMissing: it has no card yet.
    """
    run = Run(store=store, key=str(load_version(store, uri).run))
    try:
        return store.get_sealed(run.path(_CARD)).decode()
    except ObjectMissing:
        raise RunMissing(f"{uri} has no model card yet: do `llava-av promote {run.key}` first") from None
