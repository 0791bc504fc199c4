"""Register a run's checkpoint as a model version, with everything it came from."""

import contextlib
import os
from collections.abc import Mapping
from typing import Any

from llava_av.checkpoints import verify_checkpoint
from llava_av.recipe import Recipe
from llava_av.redaction import without_password
from llava_av.registry.lineage import collect_lineage
from llava_av.registry.versions import register_version, require_untouched
from llava_av.services.errors import ServiceError
from llava_av.services.mlflow_health import require_answer
from llava_av.storage import ObjectStore
from llava_av.tracking.connection import mlflow_client
from llava_av.tracking.mlflow_run import catch_up
from llava_av.workflows.data import is_demo
from llava_av.workflows.outcomes import mirror_run
from llava_av.workflows.runs import TRAIN_COMMAND, Run
from llava_av.workflows.runtime.failures import pipeline_run
from llava_av.workflows.runtime.retry import retry_transient
from llava_av.workflows.runtime.workspace import Workspace

__all__ = ["links_page", "register_step"]

# The whole digests are in the lineage, which the model version has.
_SHORT = 12
_MLFLOW_URL_VARIABLE = "LLAVA_AV_MLFLOW_URL"

_MLFLOW_START_S = 180.0


@retry_transient
def register_step(workspace: Workspace, run_key: str) -> dict[str, Any]:
    """Register the run's checkpoint under the model's name and return register.json.

    A checkpoint that is registered already keeps its version. Every file of it is read and verified.

    Raises:
        CheckpointError: the checkpoint is not the one that training ended with, a file of it is damaged, or a
            weight is not finite.
        TamperedError: the version that it has already was registered with other files.
        MlflowError: MLflow cannot be reached, or refuses.
        RunMissing: the run has not been trained.
    """
    run = Run(store=ObjectStore.from_env(), key=run_key)
    request = run.request()
    train = run.read("train.json", made_by=TRAIN_COMMAND)
    recipe = Recipe.model_validate(request["recipe"])
    if pipeline_run() is None:
        _let_mlflow_start()
    with run.timed("register"):
        rows = run.rows("metrics.jsonl")
        manifest = verify_checkpoint(
            run.store, train["checkpoint"]["uri"], digest=train["checkpoint"]["digest"], finite=True
        )
        mlflow_run_id = catch_up(request, rows)
        mirror_run(run, mlflow_run_id)
        lineage = collect_lineage(
            run=run.key,
            pipeline_run=pipeline_run(),
            dataset_name=request["dataset"]["name"],
            dataset_commit=request["dataset"]["commit"],
            recipe=recipe,
            checkpoint_uri=train["checkpoint"]["uri"],
            checkpoint_digest=train["checkpoint"]["digest"],
            manifest_sha256=manifest,
            experiment=request["experiment"],
            code=run.code(),
            environment=train["environment"],
        ).model_dump(mode="json")
        version = register_version(
            run.store,
            name=_model_name(recipe, request["dataset"]["name"]),
            lineage=lineage,
            run_id=mlflow_run_id,
            lineage_uri=run.store.uri(run.path("lineage.json")),
        )
        require_untouched(run.store, version, contents=False)
    return version.to_json()


@retry_transient
def links_page(run_key: str, registered: Mapping[str, Any]) -> str:
    """Where to look at a registered run, in Markdown: MLflow's pages, the checkpoint, what it came from.

    Links lead to the address that `LLAVA_AV_MLFLOW_URL` names, which may be another one for browsers than for
    programs; by default to the tracking server's.

    Args:
        run_key: Key of the run.
        registered: register.json.

    Raises:
        MlflowError: MLflow cannot be reached, or refuses.
    """
    mlflow = os.environ.get(_MLFLOW_URL_VARIABLE) or os.environ.get("MLFLOW_TRACKING_URI", "")
    mlflow = without_password(mlflow).rstrip("/")
    lineage = registered["lineage"]
    name, version = registered["name"], registered["version"]
    rows = {
        "model version": f"[{name} {version}]({mlflow}/#/models/{name}/versions/{version})",
        "curves": _curves_link(mlflow, name, version),
        "run": f"`{run_key}`",
        "checkpoint": f"`{lineage['checkpoint']['uri']}`",
        "checkpoint digest": f"`{lineage['checkpoint']['digest'][:_SHORT]}`",
        "dataset": f"`{lineage['dataset']['name']}@{lineage['dataset']['commit'][:_SHORT]}`",
        "git commit": f"`{str(lineage['git']['commit'])[:_SHORT]}`",
        "image of training": f"`{str(lineage['environment']['image']).rpartition('/')[2][:60]}`",
        "experiment record": f"`{lineage['experiment']['id']}`",
    }
    return (
        "\n".join(["| | |", "| --- | --- |", *(f"| {key} | {value} |" for key, value in rows.items())]) + "\n"
    )


def _curves_link(mlflow: str, name: str, version: str) -> str:
    with mlflow_client() as client:
        info = client.get_run(str(client.get_model_version(name, version).run_id)).info
    return f"[run {info.run_id}]({mlflow}/#/experiments/{info.experiment_id}/runs/{info.run_id})"


def _model_name(recipe: Recipe, dataset_name: str) -> str:
    """The recipe's name for the demonstration; another dataset gives a model with versions of its own."""
    return recipe.name if is_demo(dataset_name) else f"{recipe.name}-{dataset_name}"


def _let_mlflow_start() -> None:
    """Wait for an embedded MLflow that listens but does not answer yet; its absence is told later.

    When training was done before, the pipeline is here within seconds of the server's start.
    """
    with contextlib.suppress(ServiceError):
        require_answer(os.environ.get("MLFLOW_TRACKING_URI", ""), _MLFLOW_START_S)
