"""Record of a run in MLflow."""

from typing import Any

from mlflow import MlflowClient

from llava_av.runs import Run


def in_mlflow(run: Run) -> Any:
    client = MlflowClient()
    place = client.get_experiment_by_name(run.request().experiment.id).experiment_id
    (found,) = client.search_runs([place], f"tags.`llava_av.run` = '{run.id}'")
    return found
