"""Metrics of a run: a local journal first, MLflow from it, so that MLflow being down never stops training."""

import json
import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["Journal", "MlflowFollower"]

_LOG = logging.getLogger(__name__)
_BATCH = 50


class Journal:
    """One JSON line a step in a file that a killed run can be continued from."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def keep_until(self, step: int) -> None:
        """Drops the rows from `step` on, and a last line that a kill cut short."""
        rows = [row for row in self.rows() if row["step"] < step]
        temporary = self.path.with_suffix(".part")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        temporary.replace(self.path)

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds one row, which has a `step`."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """All whole rows, in order."""
        if not self.path.exists():
            return []
        rows = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return rows


class MlflowFollower:
    """Logs a journal to MLflow from a thread; what fails is tried again, and at last by `finish`."""

    def __init__(self, journal: Journal, *, experiment: str, run: str, parameters: Mapping[str, Any]) -> None:
        self._journal = journal
        self._experiment = experiment
        self._run = run
        self._parameters = parameters
        self._logged_until: int | None = None
        self._warned = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="mlflow", daemon=True)
        self.run_id: str | None = None
        """MLflow's id of the run; None until MLflow was reached."""

    def start(self) -> None:
        """Begins to follow."""
        self._thread.start()

    def finish(self) -> bool:
        """Logs what is left; False when MLflow cannot be reached and the rest has to be caught up later."""
        self._stop.set()
        self._thread.join()
        return self._catch_up(ended=True)

    def _follow(self) -> None:
        while not self._stop.wait(2.0):
            self._catch_up(ended=False)

    def _catch_up(self, *, ended: bool) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            self._log_new_rows(ended)
        except (MlflowException, OSError) as error:
            if not self._warned:
                _LOG.warning(
                    "MLflow cannot be reached, training goes on: %s", " ".join(str(error).split())[:200]
                )
                self._warned = True
            return False
        return True

    def _log_new_rows(self, ended: bool) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        client = MlflowClient()
        if self.run_id is None:
            self.run_id = _find_or_create(client, self._experiment, self._run, self._parameters)
        if self._logged_until is None:
            self._logged_until = _last_logged(client, self.run_id)
        rows = [row for row in self._journal.rows() if row["step"] > self._logged_until]
        for first in range(0, len(rows), _BATCH):
            part = rows[first : first + _BATCH]
            now_ms = int(time.time() * 1000)
            metrics = [
                Metric(f"train/{name}", float(value), now_ms, row["step"])
                for row in part
                for name, value in row.items()
                if name != "step"
            ]
            client.log_batch(self.run_id, metrics=metrics)
            self._logged_until = part[-1]["step"]
        if ended:
            client.set_terminated(self.run_id)


def _find_or_create(client: Any, experiment: str, run: str, parameters: Mapping[str, Any]) -> str:
    """The MLflow run that carries this run key, made with its parameters when there is none."""
    from mlflow.entities import Param
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(experiment)
    if found is None:
        try:
            experiment_id = client.create_experiment(experiment)
        except MlflowException:
            # made by another run in the meantime
            experiment_id = client.get_experiment_by_name(experiment).experiment_id
    else:
        experiment_id = found.experiment_id
    known = client.search_runs([experiment_id], f"tags.`llava_av.run` = '{run}'", max_results=1)
    if known:
        client.update_run(known[0].info.run_id, status="RUNNING")
        return str(known[0].info.run_id)
    created = client.create_run(experiment_id, run_name=run, tags={"llava_av.run": run})
    pairs = [Param(name, str(value)[:500]) for name, value in parameters.items()]
    client.log_batch(created.info.run_id, params=pairs)
    return str(created.info.run_id)


def _last_logged(client: Any, run_id: str) -> int:
    history = client.get_metric_history(run_id, "train/loss")
    return max((metric.step for metric in history), default=-1)
