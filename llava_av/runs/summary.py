"""summary.json: the few numbers of a run that other tools read."""

from typing import Any, ClassVar

from pydantic import ConfigDict, NonNegativeFloat, field_validator

from llava_av.runs.artifact_base import Artifact, ArtifactPart
from llava_av.runs.evaluation import Accuracy
from llava_av.runs.training import CheckpointName
from llava_av.vocabulary import GateVerdict

__all__ = ["ExpectedResult", "GateSummary", "ModelVersion", "QuarantinedFile", "Summary", "unfit_sample_name"]


class ModelVersion(ArtifactPart):
    """A registered model; name and version are null if the run registered none."""

    name: str | None = None
    version: str | None = None
    aliases: tuple[str, ...] = ()

    @field_validator("version", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value


class GateSummary(ArtifactPart):
    """Decision of the gate; `passed` is null if the gate was not run."""

    passed: bool | None = None
    reasons: tuple[str, ...] = ()

    @property
    def verdict(self) -> GateVerdict:
        """Return `passed`, `failed` or `not run`."""
        return GateVerdict.of(self.passed)


class QuarantinedFile(ArtifactPart):
    """A file that was left out of the dataset, or a sample that the model cannot take, and the reason."""

    file: str
    reason: str


def unfit_sample_name(sample: str, split: str) -> str:
    """Return the name by which `QuarantinedFile` lists a sample that the model cannot take."""
    return f"sample {sample} of {split}"


class ExpectedResult(ArtifactPart):
    """An expectation of the experiment record with the observed value."""

    outcome: str
    """Such as `accuracy.av.joint at least 0.90: 0.97 [0.93, 0.99], met by 0.07`."""
    met: bool | None
    """None if it was not measured."""


class Summary(Artifact):
    """Contents of summary.json."""

    model_config = ConfigDict(allow_inf_nan=False)
    NAME: ClassVar[str] = "summary.json"
    COMMAND: ClassVar[str] = "report {run}"

    dataset_commit: str
    checkpoint: CheckpointName
    model_version: ModelVersion
    accuracy: dict[str, dict[str, Accuracy]]
    """By ablation, then by question family."""
    gate: GateSummary
    expected: tuple[ExpectedResult, ...] = ()
    """Expectations of the experiment record, in its order."""
    seconds: dict[str, NonNegativeFloat]
    """Duration of each step, without a total."""
    quarantined: tuple[QuarantinedFile, ...]

    @field_validator("accuracy")
    @classmethod
    def _within_bounds(cls, value: dict[str, dict[str, Accuracy]]) -> dict[str, dict[str, Accuracy]]:
        for cell in (cell for families in value.values() for cell in families.values()):
            shares = (cell.value, cell.low, cell.high, *(() if cell.chance is None else (cell.chance,)))
            if not all(0 <= share <= 1 for share in shares):
                raise ValueError(f"shares must be between 0 and 1, got {shares}")
            if min(cell.n, cell.unparsed) < 0:
                raise ValueError(f"counts must be ≥ 0, got n={cell.n}, unparsed={cell.unparsed}")
        return value

    @field_validator("seconds")
    @classmethod
    def _no_total(cls, value: dict[str, float]) -> dict[str, float]:
        if "total" in value:
            raise ValueError("seconds contains steps only, and 'total' is not a step")
        return value
