"""Lineage: collecting everything that a model was made from, and naming what a record lacks."""

from collections.abc import Mapping

from pydantic import ValidationError

from llava_av.errors import UserError
from llava_av.runs import CheckpointLineage, JobLineage, Lineage, RunCode, RunRequest, TrainingResult

__all__ = ["collect_lineage", "missing_parts"]


def collect_lineage(
    *,
    request: RunRequest,
    code: RunCode,
    trained: TrainingResult,
    manifest_sha256: str,
    pipeline_run: str | None,
) -> Lineage:
    """Collect everything that a run's model was made from.

    Args:
        request: The run's request.
        code: The run's code; its patch is an object of its own.
        trained: The result of training.
        manifest_sha256: Digest of the checkpoint's manifest, as `verify_checkpoint` returns it.
        pipeline_run: ID of the pipeline's run on a backend, if it was one.

    Raises:
        UserError: An earlier version trained the run and did not record the environment.
    """
    checkpoint, best, environment = trained.checkpoint, trained.best, trained.environment
    if environment is None:
        raise UserError(
            f"run {request.run} cannot be registered: the version that trained it did not record its "
            "environment; open and train the run again"
        )
    return Lineage.model_validate(
        {
            "run": request.run,
            "job": JobLineage(name=environment.job, pipeline_run=pipeline_run),
            "dataset": request.dataset,
            "further_datasets": request.further_datasets,
            "git": code.git,
            "recipe": request.recipe.model_dump(mode="json"),
            "seed": request.recipe.seed,
            "checkpoint": CheckpointLineage(
                uri=checkpoint.uri,
                digest=checkpoint.digest,
                manifest_sha256=manifest_sha256,
                step=checkpoint.step if best else None,
                best_step=best.step if best else None,
                best_held_out_loss=best.held_out_loss if best else None,
            ),
            "stages": trained.stages,
            "experiment": request.experiment,
            "code_digest": code.digest,
            "environment": environment,
        }
    )


def missing_parts(record: Mapping[str, object]) -> list[str]:
    """Return the parts that a lineage record lacks, by dotted name; empty if it is complete.

    A part is missing if it is absent, empty or of the wrong form. A git commit may be null if the note says
    why, but a dirty checkout must have its patch.
    """
    try:
        lineage = Lineage.model_validate(record)
    except ValidationError as error:
        return list(dict.fromkeys(".".join(str(part) for part in item["loc"]) for item in error.errors()))
    parts = {
        "run": lineage.run,
        "job": lineage.job,
        "checkpoint.manifest_sha256": lineage.checkpoint.manifest_sha256,
        "experiment.sha256": lineage.experiment.sha256,
        "git.patch_sha256": lineage.git.patch_sha256 or not lineage.git.dirty,
        "git.commit": lineage.git.commit or lineage.git.note,
    }
    return [name for name, value in parts.items() if not value]
