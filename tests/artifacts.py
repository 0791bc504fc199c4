"""Objects of runs for tests: the stored samples with changes, and evaluations made from scores alone."""

import json
from pathlib import Path
from typing import Any, TypeVar

from llava_av.runs import EvaluationResult
from llava_av.runs.artifact_base import ArtifactPart

__all__ = ["SAMPLES", "evaluated", "sample", "sample_json"]

SAMPLES = Path(__file__).parent / "unit" / "golden" / "runs"
_Object = TypeVar("_Object", bound=ArtifactPart)


def sample_json(kind: type[ArtifactPart] | str, version: str = "current") -> dict[str, Any]:
    """Return a stored sample as JSON."""
    name = kind if isinstance(kind, str) else kind.__name__
    found: dict[str, Any] = json.loads((SAMPLES / f"{name}.{version}.json").read_text(encoding="utf-8"))
    return found


def sample(kind: type[_Object], **changes: Any) -> _Object:
    """Return the stored sample of this version with changed fields."""
    return kind.model_validate({**sample_json(kind), **changes})


def evaluated(scores: dict[str, Any]) -> EvaluationResult:
    """Return an evaluation with these scores of some dataset and checkpoint."""
    about = {"dataset": {"name": "d", "commit": "c"}, "checkpoint": {"uri": "s3://b/c", "digest": "0"}}
    return EvaluationResult.model_validate({**about, **scores})
