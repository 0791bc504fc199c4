"""Experiment records in MLflow: the text as the note of its experiment and runs, the outcome as tags."""

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
# Characters that MLflow holds: MAX_EXPERIMENT_TAG_VAL_LENGTH and MAX_TAG_VAL_LENGTH.
_LONGEST_OF_EXPERIMENT, _LONGEST_OF_RUN = 5000, 8000


def mirror_record(experiment: str, mlflow_run_id: str, text: str, tags: Mapping[str, str]) -> None:
    """Makes a record the note of the MLflow experiment of its name and of a run, and sets tags of the run.

    Args:
        experiment: id of the record.
        mlflow_run_id: MLflow's id of the run.
        text: the record.
        tags: what is said of the run.

    Raises:
        MlflowError: MLflow cannot be reached, or refuses.
    """
    with mlflow_client() as client:
        found = client.get_run(mlflow_run_id).info.experiment_id
        client.set_experiment_tag(found, _NOTE, _fitting(text, _LONGEST_OF_EXPERIMENT, experiment))
        client.set_tag(mlflow_run_id, _NOTE, _fitting(text, _LONGEST_OF_RUN, experiment))
        for key, value in tags.items():
            client.set_tag(mlflow_run_id, key, redact(value)[:_LONGEST_OF_RUN])


def mirror_closed(experiment: str, text: str, closed: str) -> int:
    """Makes a record, as it is after its runs, the note of its MLflow experiment and of all runs in it.

    Args:
        experiment: id of the record, which is the name of the MLflow experiment.
        text: the record.
        closed: day on which it was closed; `no` while it is open.

    Returns:
        How many runs MLflow has of it; 0 also if it has no experiment of that name.

    Raises:
        MlflowError: MLflow cannot be reached, or refuses.
    """
    with mlflow_client() as client:
        found = client.get_experiment_by_name(experiment)
        if found is None:
            return 0
        place = found.experiment_id
        client.set_experiment_tag(place, _NOTE, _fitting(text, _LONGEST_OF_EXPERIMENT, experiment))
        client.set_experiment_tag(place, "llava_av.closed", closed)
        runs = list(all_pages(lambda token: _runs_page(client, place, token)))
        for run in runs:
            client.set_tag(run.info.run_id, _NOTE, _fitting(text, _LONGEST_OF_RUN, experiment))
        return len(runs)


def _runs_page(client: "MlflowClient", experiment_id: str, token: str) -> tuple[Sequence["Run"], str | None]:
    page = client.search_runs([experiment_id], page_token=token or None)
    return page, page.token


def mirror_outcome(mlflow_run_id: str, verdict: str, lines: Sequence[str]) -> None:
    """Sets what came out of a run as its tags.

    Args:
        mlflow_run_id: MLflow's id of the run.
        verdict: in a few words.
        lines: each expectation beside what was seen.

    Raises:
        MlflowError: MLflow cannot be reached, or refuses.
    """
    with mlflow_client() as client:
        client.set_tag(mlflow_run_id, "llava_av.outcome", verdict)
        client.set_tag(mlflow_run_id, "llava_av.outcomes", redact("\n".join(lines))[:_LONGEST_OF_RUN])


def describe_version(name: str, version: str, text: str, card: str) -> None:
    """Sets what MLflow says of a model version, and where its model card is.

    Raises:
        MlflowError: MLflow cannot be reached, or refuses.
    """
    with mlflow_client() as client:
        client.update_model_version(name, version, description=redact(text)[:_LONGEST_OF_EXPERIMENT])
        client.set_model_version_tag(name, version, "model_card", card)


def tag_version(name: str, version: str, key: str, value: str) -> None:
    """Sets a tag of a model version.

    Raises:
        MlflowError: MLflow cannot be reached, or refuses.
    """
    with mlflow_client() as client:
        client.set_model_version_tag(name, version, key, value)


def _fitting(text: str, longest: int, experiment: str) -> str:
    text = redact(text)
    if len(text) <= longest:
        return text
    rest = f"\n\n(cut off here; all of it is in experiments/{experiment}.md)"
    return text[: longest - len(rest)].rstrip() + rest
