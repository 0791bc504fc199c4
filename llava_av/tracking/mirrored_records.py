"""Experiment records in MLflow: their text as notes of experiment and runs, their outcome as tags."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from llava_av.paging import all_pages
from llava_av.redaction import redact
from llava_av.tracking.connection import mlflow_client

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["describe_version", "mirror_closed", "mirror_outcome", "mirror_record", "tag_version"]

_NOTE = "mlflow.note.content"
# Characters that MLflow accepts: MAX_EXPERIMENT_TAG_VAL_LENGTH and MAX_TAG_VAL_LENGTH.
_MAX_EXPERIMENT_TEXT, _MAX_RUN_TEXT = 5000, 8000


def mirror_record(experiment: str, mlflow_run_id: str, text: str, tags: Mapping[str, str]) -> None:
    """Set a record as the note of its MLflow experiment and of a run, and set tags of the run.

    Args:
        experiment: ID of the record.
        mlflow_run_id: MLflow's ID of the run.
        text: The record.
        tags: Tags of the run.

    Raises:
        MlflowError: MLflow is not reachable or refuses a request.
    """
    with mlflow_client() as client:
        found = client.get_run(mlflow_run_id).info.experiment_id
        client.set_experiment_tag(found, _NOTE, _shortened(text, _MAX_EXPERIMENT_TEXT, experiment))
        values = {key: redact(value)[:_MAX_RUN_TEXT] for key, value in tags.items()}
        _set_tags(client, mlflow_run_id, {_NOTE: _shortened(text, _MAX_RUN_TEXT, experiment), **values})


def _set_tags(client: "MlflowClient", mlflow_run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run in one request."""
    from mlflow.entities import RunTag

    client.log_batch(mlflow_run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def mirror_closed(experiment: str, text: str, closed: str) -> int:
    """Set a record as the note of its MLflow experiment and of all runs in it.

    Args:
        experiment: ID of the record, which is the name of the MLflow experiment.
        text: The record.
        closed: Day on which the record was closed; `no` while it is open.

    Returns:
        The number of MLflow runs in the experiment; 0 if there is no such experiment.

    Raises:
        MlflowError: MLflow is not reachable or refuses a request.
    """
    with mlflow_client() as client:
        found = client.get_experiment_by_name(experiment)
        if found is None:
            return 0
        experiment_id = found.experiment_id
        client.set_experiment_tag(experiment_id, _NOTE, _shortened(text, _MAX_EXPERIMENT_TEXT, experiment))
        client.set_experiment_tag(experiment_id, "llava_av.closed", closed)
        runs = list(all_pages(lambda token: _runs_page(client, experiment_id, token)))
        for run in runs:
            client.set_tag(run.info.run_id, _NOTE, _shortened(text, _MAX_RUN_TEXT, experiment))
        return len(runs)


def _runs_page(client: "MlflowClient", experiment_id: str, token: str) -> tuple[Sequence["Run"], str | None]:
    page = client.search_runs([experiment_id], page_token=token or None)
    return page, page.token


def mirror_outcome(mlflow_run_id: str, verdict: str, lines: Sequence[str]) -> None:
    """Set the outcome of a run as tags.

    Args:
        mlflow_run_id: MLflow's ID of the run.
        verdict: The verdict in a few words.
        lines: Expected and observed values, one expectation per line.

    Raises:
        MlflowError: MLflow is not reachable or refuses a request.
    """
    with mlflow_client() as client:
        observed = redact("\n".join(lines))[:_MAX_RUN_TEXT]
        _set_tags(client, mlflow_run_id, {"llava_av.outcome": verdict, "llava_av.outcomes": observed})


def describe_version(name: str, version: str, text: str, card: str) -> None:
    """Set the description of a model version and the address of its model card.

    Raises:
        MlflowError: MLflow is not reachable or refuses a request.
    """
    with mlflow_client() as client:
        client.update_model_version(name, version, description=redact(text)[:_MAX_EXPERIMENT_TEXT])
        client.set_model_version_tag(name, version, "model_card", card)


def tag_version(name: str, version: str, key: str, value: str) -> None:
    """Set a tag of a model version.

    Raises:
        MlflowError: MLflow is not reachable or refuses a request.
    """
    with mlflow_client() as client:
        client.set_model_version_tag(name, version, key, value)


def _shortened(text: str, max_characters: int, experiment: str) -> str:
    text = redact(text)
    if len(text) <= max_characters:
        return text
    note = f"\n\n(shortened; see experiments/{experiment}.md for the whole record)"
    return text[: max_characters - len(note)].rstrip() + note
