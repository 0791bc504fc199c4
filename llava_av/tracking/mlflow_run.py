"""MLflow run that mirrors a training run: it receives parameters and each journal row once."""

import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from llava_av.redaction import redact
from llava_av.runs import RunRequest, named_datasets
from llava_av.tracking.connection import mlflow_client
from llava_av.tracking.journal import Journal

__all__ = ["MlflowFollower", "catch_up", "log_metrics"]

_LOG = logging.getLogger(__name__)
_BATCH_ROWS = 50
_BATCH_METRICS = 500
"""Metrics per request; MLflow accepts at most 1,000."""
_PAUSE_S, _FINISH_S = 10.0, 60.0
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
    mirror = _Mirror(request)
    return mirror.log([rows], ended="FINISHED")


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


class _Mirror:
    """Part of one run that MLflow is known to have."""

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


class MlflowFollower:
    """Mirrors a journal from a thread; errors of MLflow never reach the training."""

    def __init__(self, request: RunRequest, journal: Journal) -> None:
        self._mirror = _Mirror(request)
        self._journal = journal
        self._warned = ""
        self._offset = 0
        """Bytes of the journal that MLflow has."""
        self._ended = ""
        self._run_id: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="mlflow", daemon=True)
        self._thread.start()

    def finish(self, *, failed: bool = False) -> str | None:
        """Log the remaining rows and return MLflow's ID of the run; None if MLflow has to catch up later."""
        self._ended = "FAILED" if failed else "FINISHED"
        self._stop.set()
        self._thread.join(_FINISH_S)
        if self._thread.is_alive():
            self._warn(f"MLflow did not finish within {_FINISH_S:.0f} s")
        return self._run_id

    def _follow(self) -> None:
        while not self._stop.wait(_PAUSE_S):
            failure = self._log_new()
            if failure and not self._warned:
                self._warn(failure)
        failure = self._log_new(ended=self._ended)
        if failure:
            self._warn(failure)

    def _log_new(self, *, ended: str = "") -> str:
        """Log new rows and return the error message, empty on success."""
        try:
            run_id = self._mirror.log(self._new_rows(), ended=ended)
        # Any error: the journal is stored with the run, and `register` reports what still fails.
        except Exception as error:
            return " ".join(str(error).split()) or type(error).__name__
        if ended:
            self._run_id = run_id
        return ""

    def _new_rows(self) -> Iterator[Sequence[Mapping[str, float]]]:
        while True:
            rows, end = self._journal.rows_from(self._offset, _BATCH_ROWS)
            if not rows:
                return
            yield rows
            self._offset = end

    def _warn(self, failure: str) -> None:
        if failure != self._warned:
            _LOG.warning("%s; training continues, and `llava-av register` logs the missing metrics", failure)
        self._warned = failure


def _find_or_create(client: Any, run: str, request: RunRequest | None) -> str:
    """Return the MLflow run with this run's ID; create it if there is none."""
    experiment_id = _experiment(client, request.experiment.id if request else _FOREIGN_MODELS)
    known = client.search_runs([experiment_id], f"tags.`llava_av.run` = '{run}'", max_results=1)
    if known:
        return str(known[0].info.run_id)
    name = run if request is None else _run_name(request)
    created = client.create_run(experiment_id, run_name=name, tags={"llava_av.run": run})
    return str(created.info.run_id)


def _run_name(request: RunRequest) -> str:
    """Return a name that people recognise; the tag `llava_av.run` has the run ID."""
    now = datetime.now(UTC)
    return f"{request.recipe_name} · seed {request.seed} · {now.day} {now:%b}"


def _log_datasets(client: Any, run_id: str, request: RunRequest) -> None:
    """Log the dataset commits as inputs of the run; MLflow ignores those that it has."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = [
        DatasetInput(
            Dataset(
                name=one.name,
                digest=one.commit[:_MAX_DIGEST],
                source_type="s3",
                source=json.dumps({"uri": f"datasets/{one.name}", "commit": one.commit}),
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
    recipe = request.recipe
    params = {
        "run": request.run,
        "recipe_digest": recipe.digest(),
        "dataset": request.dataset.name,
        "dataset_commit": request.dataset.commit,
        **({"datasets": named_datasets(request.datasets)} if request.further_datasets else {}),
        **_flat(recipe.model_dump(mode="json")),
    }
    client.log_batch(run_id, params=[Param(name, redact(str(value))) for name, value in params.items()])


def _flat(value: Any, name: str = "") -> dict[str, object]:
    if not isinstance(value, Mapping):
        return {name: value}
    parts = [_flat(inner, f"{name}.{key}" if name else key) for key, inner in value.items()]
    return {key: inner for part in parts for key, inner in part.items()}


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
