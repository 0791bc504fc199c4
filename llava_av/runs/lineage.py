"""lineage.json: the record of everything that a model version was made from."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

from pydantic import Field, JsonValue, model_validator

from llava_av.provenance.environment import Environment
from llava_av.provenance.source_code import GitLineage
from llava_av.recipe import Recipe
from llava_av.runs.artifact_base import Artifact, ArtifactPart
from llava_av.runs.request import SHA256, DatasetName, ExperimentName
from llava_av.runs.training import TrainedStage

__all__ = ["CheckpointLineage", "JobLineage", "Lineage"]

_ENVIRONMENT = ("python", "platform", "packages")


def _is_unset(value: object) -> bool:
    """Return whether a field that the first version lacked is left out, so that a version's record stays."""
    return value is None or value == ()


class CheckpointLineage(ArtifactPart):
    """Checkpoint with the model's weights."""

    uri: str = Field(min_length=1)
    digest: str = Field(pattern=SHA256)
    """Digest of its state, not of its files."""
    manifest_sha256: str | None = Field(default=None, pattern=SHA256)
    """Digest of the manifest, which contains that of every file; None in records of earlier versions."""
    step: int | None = Field(default=None, exclude_if=_is_unset)
    """Optimizer steps behind it; None if training measured no held-out loss."""
    best_step: int | None = Field(default=None, exclude_if=_is_unset)
    """Step of the checkpoint with the lowest held-out loss; None if training measured none."""
    best_held_out_loss: float | None = Field(default=None, exclude_if=_is_unset)
    """The held-out loss of that checkpoint."""


class JobLineage(ArtifactPart):
    """Training job."""

    name: str | None
    """PyTorchJob; None for processes of one machine."""
    pipeline_run: str | None
    """Run of the pipeline on a backend; None outside of one."""


class Lineage(Artifact):
    """Everything that a model version was made from."""

    NAME: ClassVar[str] = "lineage.json"
    COMMAND: ClassVar[str] = "register {run}"

    run: str | None = Field(default=None, min_length=1)
    """Run ID; None in records of earlier versions."""
    job: JobLineage | None = None
    dataset: DatasetName
    further_datasets: tuple[DatasetName, ...] = Field(default=(), exclude_if=_is_unset)
    """Dataset commits of the training in addition to `dataset`."""
    git: GitLineage
    recipe_json: dict[str, JsonValue] = Field(alias="recipe", min_length=1)
    """Complete recipe, as written by the version that trained."""
    seed: int
    checkpoint: CheckpointLineage
    stages: tuple[TrainedStage, ...] = Field(default=(), exclude_if=_is_unset)
    """Stages of the training; empty for one without stages."""
    experiment: ExperimentName
    code_digest: str = Field(pattern=SHA256)
    """Digest of the Python files that ran."""
    environment: Environment
    """Python, packages and image of the training."""

    @property
    def datasets(self) -> tuple[DatasetName, ...]:
        """Return all dataset commits of the training."""
        return (self.dataset, *self.further_datasets)

    @cached_property
    def recipe(self) -> Recipe:
        """Return the validated recipe."""
        return Recipe.model_validate(self.recipe_json)

    @model_validator(mode="before")
    @classmethod
    def _with_environment(cls, given: Any) -> Any:
        """Accept the first version's record, which had the environment's fields at its top."""
        if not isinstance(given, Mapping) or "environment" in given or not set(_ENVIRONMENT) <= set(given):
            return given
        return {**given, "environment": {"image": None, **{name: given[name] for name in _ENVIRONMENT}}}
