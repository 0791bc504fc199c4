"""MLflow run that mirrors a training run: it receives parameters and each journal row once."""

import contextlib
import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llava_av.datasets.manifest import commit_key
from llava_av.runs import RunRequest
from llava_av.storage import ObjectStore
from llava_av.tracking.connection import mlflow_client
from llava_av.tracking.description import run_name, run_parameters

__all__ = ["MlflowTracker", "catch_up", "log_metrics"]

_LOG = logging.getLogger(__name__)
_BATCH_METRICS = 500
"""Metrics per request; MLflow accepts at most 1,000."""
_FOREIGN_MODELS = "evaluations"
# MLflow's pages of an experiment of this kind show runs and curves, not traces of prompts.
_OF_TRAININGS = {"mlflow.experimentKind": "custom_model_development"}
_MAX_DIGEST = 36
"""Characters of a dataset's digest that MLflow accepts."""


def catch_up(request: RunRequest, rows: Sequence[Mapping[str, float]]) -> str:
    """Log everything to MLflow that it lacks of a finished run.

    Args:
        request: The request of the run.
        rows: Rows of the run's journal.

    Returns:
        MLflow's ID of the run, which is created if there is none.

    Raises:
        MlflowError: MLflow is not reachable or refuses a request.
    """
    return MlflowTracker(request).log([rows], ended="FINISHED")


def log_metrics(run: str, request: RunRequest | None, metrics: Mapping[str, float], *, step: int) -> str:
    """Log metrics of a finished run to MLflow unless it has them already.

    Args:
        run: Run ID.
        request: The request of the run; None for a model of another origin, whose metrics go to a separate
            MLflow experiment.
        metrics: Values by name.
        step: Optimizer step of the evaluated checkpoint.

    Returns:
        MLflow's ID of the run.

    Raises:
        MlflowError: MLflow is not reachable or refuses a request.
    """
    from mlflow.entities import Metric

    now_ms = int(time.time() * 1000)
    with mlflow_client() as client:
        run_id = _find_or_create(client, run, request)
        known = client.get_run(run_id).data.metrics
        rows = [
            Metric(name, value, now_ms, step) for name, value in metrics.items() if known.get(name) != value
        ]
        for first in range(0, len(rows), _BATCH_METRICS):
            client.log_batch(run_id, metrics=rows[first : first + _BATCH_METRICS])
        if request is None:
            client.set_terminated(run_id)
    return run_id


class MlflowTracker:
    """MLflow run of a training, and the part of it that MLflow is known to have."""

    NAME = "MLflow"
    REMEDY = "`llava-av register` logs the missing metrics"

    def __init__(self, request: RunRequest) -> None:
        self._request = request
        self._run_id: str | None = None
        self._logged: int | None = None
        """Last step that MLflow has; None if this is unknown."""
        self._described = self._kept = False

    def log(self, batches: Iterable[Sequence[Mapping[str, float]]], *, ended: str = "") -> str:
        """Log new rows and return MLflow's ID of the run; if one part fails, the others are still logged.

        Args:
            batches: Rows in their order, in groups; a group is requested when the one before is logged.
            ended: Status of a run that has ended; empty for one that continues.
        """
        with mlflow_client() as client:
            if self._run_id is None:
                self._run_id = _find_or_create(client, self._request.run, self._request)
            run_id = self._run_id
            # Callbacks run in reverse order, each even if another one raises.
            with contextlib.ExitStack() as parts:
                if ended:
                    parts.callback(client.set_terminated, run_id, status=ended)
                parts.callback(self._keep_recipe, client, run_id)
                parts.callback(self._log_rows, client, run_id, batches)
                parts.callback(self._describe, client, run_id)
        return run_id

    def _describe(self, client: Any, run_id: str) -> None:
        if not self._described:
            _log_parameters(client, run_id, self._request)
            _log_datasets(client, run_id, self._request)
        self._described = True

    def _keep_recipe(self, client: Any, run_id: str) -> None:
        if not self._kept:
            recipe = self._request.recipe
            client.log_dict(run_id, recipe.model_dump(mode="json"), "recipe.json")
        self._kept = True

    def _log_rows(self, client: Any, run_id: str, batches: Iterable[Sequence[Mapping[str, float]]]) -> None:
        # None until all rows are logged: after a lost answer MLflow may have more rows than known.
        last, self._logged = self._logged, None
        if last is None:
            history = client.get_metric_history(run_id, "train/loss")
            last = max((metric.step for metric in history), default=-1)
        for rows in batches:
            new = [row for row in rows if row["step"] > last]
            metrics = _metrics(new)
            for first in range(0, len(metrics), _BATCH_METRICS):
                client.log_batch(run_id, metrics=metrics[first : first + _BATCH_METRICS])
            last = int(new[-1]["step"]) if new else last
        self._logged = last


def _metrics(rows: Sequence[Mapping[str, float]]) -> list[Any]:
    from mlflow.entities import Metric

    now_ms = int(time.time() * 1000)
    return [
        Metric(f"train/{name}", float(value), now_ms, int(row["step"]))
        for row in rows
        for name, value in row.items()
        if name != "step"
    ]


def _find_or_create(client: Any, run: str, request: RunRequest | None) -> str:
    """Return the MLflow run with this run's ID; create it if there is none."""
    experiment_id = _experiment(client, request.experiment.id if request else _FOREIGN_MODELS)
    known = client.search_runs([experiment_id], f"tags.`llava_av.run` = '{run}'", max_results=1)
    if known:
        return str(known[0].info.run_id)
    name = run if request is None else run_name(request)
    created = client.create_run(experiment_id, run_name=name, tags={"llava_av.run": run})
    return str(created.info.run_id)


def _log_datasets(client: Any, run_id: str, request: RunRequest) -> None:
    """Log the dataset commits as inputs of the run; MLflow ignores those that it has."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    store = ObjectStore.from_env()
    inputs = [
        DatasetInput(
            Dataset(
                name=one.name,
                digest=one.commit[:_MAX_DIGEST],
                source_type="s3",
                source=json.dumps({"uri": store.uri(commit_key(one.name, one.commit))}),
            ),
            tags=[InputTag("mlflow.data.context", "training")],
        )
        for one in request.datasets
    ]
    client.log_inputs(run_id, datasets=inputs)


def _log_parameters(client: Any, run_id: str, request: RunRequest) -> None:
    """Log the recipe unless the run has parameters, which an earlier version may have named differently."""
    from mlflow.entities import Param

    if client.get_run(run_id).data.params:
        return
    params = [Param(name, value) for name, value in run_parameters(request).items()]
    client.log_batch(run_id, params=params)


def _experiment(client: Any, name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, tags=_OF_TRAININGS))
        except MlflowException:
            # Another run may have created it in the meantime.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)
