"""Register a run's checkpoint as a model version, with everything it came from."""

import contextlib
import os
from typing import Any

from llava_av.recipe import Recipe
from llava_av.registry.lineage import collect_lineage
from llava_av.registry.versions import register_version
from llava_av.services.errors import ServiceError
from llava_av.services.mlflow_health import require_answer
from llava_av.steps.context import Workspace
from llava_av.steps.data import is_demo
from llava_av.steps.runs import TRAIN_COMMAND, Run
from llava_av.storage import ObjectStore
from llava_av.tracking.journal import parse_rows
from llava_av.tracking.mlflow_run import catch_up

__all__ = ["register_step"]

_MLFLOW_START_S = 180.0


def register_step(workspace: Workspace, run_key: str) -> dict[str, Any]:
    """Register the run's checkpoint under the model's name and return register.json.

    A checkpoint that is registered already keeps its version.

    Raises:
        MlflowError: MLflow cannot be reached, or refuses.
        RunMissing: the run has not been trained.
    """
    run = Run(store=ObjectStore.from_env(), key=run_key)
    request = run.request()
    train = run.read("train.json", made_by=TRAIN_COMMAND)
    recipe = Recipe.model_validate(request["recipe"])
    _let_mlflow_start()
    with run.timed("register"):
        rows = parse_rows(run.store.get_bytes(run.path("metrics.jsonl")).decode())
        mlflow_run_id = catch_up(request, rows)
        lineage = collect_lineage(
            dataset_name=request["dataset"]["name"],
            dataset_commit=request["dataset"]["commit"],
            recipe=recipe,
            checkpoint_uri=train["checkpoint"]["uri"],
            checkpoint_digest=train["checkpoint"]["digest"],
            experiment_id=request["experiment"]["id"],
            experiment_sha256=request["experiment"]["sha256"],
            code=run.code(),
            environment=train["environment"],
        ).model_dump(mode="json")
        run.write("lineage.json", lineage)
        version = register_version(
            name=_model_name(recipe, request["dataset"]["name"]),
            lineage=lineage,
            run_id=mlflow_run_id,
            lineage_uri=run.store.uri(run.path("lineage.json")),
        )
        registered = version.to_json()
        run.write("register.json", registered)
    return registered


def _model_name(recipe: Recipe, dataset_name: str) -> str:
    """The recipe's name for the demonstration; another dataset gives a model with versions of its own."""
    return recipe.name if is_demo(dataset_name) else f"{recipe.name}-{dataset_name}"


def _let_mlflow_start() -> None:
    """Wait for an embedded MLflow that listens but does not answer yet; its absence is told later.

    When training was done before, the pipeline is here within seconds of the server's start.
    """
    with contextlib.suppress(ServiceError):
        require_answer(os.environ.get("MLFLOW_TRACKING_URI", ""), _MLFLOW_START_S)
