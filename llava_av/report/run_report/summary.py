"""summary.json: the few numbers of a run that other tools read."""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, NonNegativeFloat, NonNegativeInt, field_validator

from llava_av.frozen import FrozenModel

__all__ = [
    "Accuracy",
    "CheckpointName",
    "Gate",
    "ModelVersion",
    "QuarantinedFile",
    "Summary",
    "build_summary",
    "write_json",
    "write_text",
]


class _Row(FrozenModel):
    """Drops what the layout does not name, so that inputs may carry more than the summary shows."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class CheckpointName(_Row):
    """Where a checkpoint is and what it must hash to."""

    uri: str
    """`s3://bucket/key` of its folder."""
    digest: str
    """State digest, in hex."""


class ModelVersion(_Row):
    """A registered model; name and version are null when the run registered none."""

    name: str | None = None
    version: str | None = None
    aliases: tuple[str, ...] = ()

    @field_validator("version", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value


class Accuracy(_Row):
    """Share of right answers with its 95 % interval."""

    value: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    chance: float | None = Field(default=None, ge=0, le=1)
    """Expected from guessing, weighted by n over the kinds of the family; null where it is not known."""
    n: NonNegativeInt
    """Answers scored."""
    unparsed: NonNegativeInt
    """Answers among them that name no choice; they count as wrong in `value`."""


class Gate(_Row):
    """Whether the version may become champion; `passed` is null when the gate was not run."""

    passed: bool | None = None
    reasons: tuple[str, ...] = ()


class QuarantinedFile(_Row):
    """A file that was left out of the dataset, or a sample that the model cannot take, and why."""

    file: str
    reason: str


class Summary(_Row):
    """The whole of summary.json."""

    dataset_commit: str
    checkpoint: CheckpointName
    model_version: ModelVersion
    accuracy: dict[str, dict[str, Accuracy]]
    """By ablation, then by question family."""
    gate: Gate
    seconds: dict[str, NonNegativeFloat]
    """Duration of each step; never their total."""
    quarantined: tuple[QuarantinedFile, ...]

    @field_validator("seconds")
    @classmethod
    def _no_total(cls, value: dict[str, float]) -> dict[str, float]:
        if "total" in value:
            raise ValueError("seconds holds steps only, and 'total' is none")
        return value


def build_summary(
    *,
    dataset_commit: str,
    checkpoint: Mapping[str, Any],
    model_version: Mapping[str, Any] | None,
    evaluation: Mapping[str, Any],
    gate: Mapping[str, Any] | None,
    seconds: Mapping[str, float],
    quarantined: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Joins what the steps left into the layout of summary.json.

    Args:
        dataset_commit: id of the dataset commit.
        checkpoint: at least `uri` and `digest`.
        model_version: at least `name`, `version` and `aliases`, or None when nothing was registered.
        evaluation: evaluation.json; its `accuracy` is taken.
        gate: at least `passed` and `reasons`, or None when the gate was not run.
        seconds: duration by step name, without a total.
        quarantined: rows with `file` and `reason`.

    Raises:
        pydantic.ValidationError: a value that is missing, not finite or out of range.
    """
    summary = Summary.model_validate(
        {
            "dataset_commit": dataset_commit,
            "checkpoint": dict(checkpoint),
            "model_version": dict(model_version or {}),
            "accuracy": evaluation["accuracy"],
            "gate": dict(gate or {}),
            "seconds": dict(seconds),
            "quarantined": [dict(row) for row in quarantined],
        }
    )
    return summary.model_dump(mode="json")


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Writes `data` as indented JSON; a reader finds the old file or the whole new one.

    Raises:
        ValueError: a number that is not finite.
    """
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text through a temporary file in the same folder, which is made when missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        # Written bytes, not text: line ends stay the same on every system.
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(text.encode())
        # mkstemp makes private files; a report is for everyone the folder is for.
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
