"""Registration of a run's checkpoint as a model version with its lineage."""

import contextlib
import os

from llava_av.checkpoints import verify_checkpoint
from llava_av.recipe import Recipe
from llava_av.redaction import without_password
from llava_av.registry.lineage_collection import collect_lineage
from llava_av.registry.versions import register_version, require_untouched
from llava_av.runs import Registration, Run, TrainingResult
from llava_av.services.mlflow_health import require_answer
from llava_av.services.server_errors import ServiceError
from llava_av.storage import ObjectStore
from llava_av.tracking.connection import mlflow_client
from llava_av.tracking.mlflow_run import catch_up
from llava_av.workflows.commit_data import is_demo
from llava_av.workflows.open_run import read_run_record
from llava_av.workflows.run_outcomes import mirror_run
from llava_av.workflows.runtime.failures import pipeline_run
from llava_av.workflows.runtime.retry import retry_transient
from llava_av.workflows.runtime.workspace import Workspace

__all__ = ["links_page", "register_step"]

# The lineage of the model version has the whole digests.
_SHORT = 12
_MLFLOW_URL_VARIABLE = "LLAVA_AV_MLFLOW_URL"

_MLFLOW_START_S = 180.0
# Without this parameter, MLflow's pages show traces of prompts instead of runs and curves.
_OF_TRAINING = "?workflowType=machine_learning"


@retry_transient
def register_step(workspace: Workspace, run_id: str) -> Registration:
    """Register the run's checkpoint under the model's name.

    A checkpoint that is already registered keeps its version. Every file of it is read and verified.

    Raises:
        CheckpointError: The checkpoint is not the one that training ended with, a file of it is damaged, or a
            weight is not finite.
        TamperedError: The checkpoint's existing version was registered with different files.
        MlflowError: MLflow cannot be reached or rejects the request.
        RunMissing: The run is not trained.
    """
    run = Run(store=ObjectStore.from_env(), id=run_id)
    request, train = run.request(), run.read(TrainingResult)
    if pipeline_run() is None:
        _wait_for_mlflow()
    with run.timed("register"):
        rows, checkpoint = run.metrics(), train.checkpoint
        manifest = verify_checkpoint(run.store, checkpoint.uri, digest=checkpoint.digest, finite=True)
        mlflow_run_id = catch_up(request, rows)
        mirror_run(request, read_run_record(run), run.record_text(), mlflow_run_id)
        lineage = collect_lineage(
            request=request,
            code=run.code(),
            trained=train,
            manifest_sha256=manifest,
            pipeline_run=pipeline_run(),
        )
        name = _model_name(request.recipe, request.dataset.name)
        version = register_version(run.store, name=name, lineage=lineage, run_id=mlflow_run_id)
        require_untouched(run.store, version, contents=False)
    return version


@retry_transient
def links_page(registered: Registration) -> str:
    """Return links to a registered run, in Markdown: MLflow's pages, the checkpoint, and its inputs.

    Links use the address in `LLAVA_AV_MLFLOW_URL`, since browsers may need a different address than programs;
    the default is the tracking server's.

    Raises:
        MlflowError: MLflow cannot be reached or rejects the request.
    """
    mlflow = os.environ.get(_MLFLOW_URL_VARIABLE) or os.environ.get("MLFLOW_TRACKING_URI", "")
    mlflow = without_password(mlflow).rstrip("/")
    lineage, name, version = registered.lineage, registered.name, registered.version
    rows = {
        "model version": f"[{name} {version}]({mlflow}/#/models/{name}/versions/{version}{_OF_TRAINING})",
        "curves": _curves_link(mlflow, name, version),
        "run": f"`{registered.run}`",
        "checkpoint": f"`{lineage.checkpoint.uri}`",
        "checkpoint digest": f"`{lineage.checkpoint.digest[:_SHORT]}`",
        "dataset": ", ".join(f"`{one.name}@{one.commit[:_SHORT]}`" for one in lineage.datasets),
        "git commit": f"`{str(lineage.git.commit)[:_SHORT]}`",
        "training image": f"`{str(lineage.environment.image).rpartition('/')[2][:60]}`",
        "experiment record": f"`{lineage.experiment.id}`",
    }
    lines = ["| | |", "| --- | --- |", *(f"| {key} | {value} |" for key, value in rows.items())]
    return "\n".join(lines) + "\n"


def _curves_link(mlflow: str, name: str, version: str) -> str:
    with mlflow_client() as client:
        info = client.get_run(str(client.get_model_version(name, version).run_id)).info
    page = f"{mlflow}/#/experiments/{info.experiment_id}/runs/{info.run_id}/model-metrics{_OF_TRAINING}"
    return f"[{info.run_name}]({page})"


def _model_name(recipe: Recipe, dataset_name: str) -> str:
    """Return the registered model that the recipe names, or its default for the dataset."""
    if recipe.registered_model is not None:
        return recipe.registered_model
    return recipe.name if is_demo(dataset_name) else f"{recipe.name}-{dataset_name}"


def _wait_for_mlflow() -> None:
    """Wait for an embedded MLflow that listens but does not answer yet; a later call reports its absence.

    If training has already finished, the pipeline reaches this step within seconds of the server's start.
    """
    with contextlib.suppress(ServiceError):
        require_answer(os.environ.get("MLFLOW_TRACKING_URI", ""), _MLFLOW_START_S)
