"""Inputs of a report, all stored as artifacts of the run, so that the report can be rebuilt from S3."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field

from llava_av.frozen import FrozenModel
from llava_av.runs import (
    Check,
    EvaluationResult,
    Lineage,
    ModelComparison,
    Prediction,
    Summary,
    TrainingResult,
)

__all__ = ["ExperimentView", "ReportInputs"]


def _as_list(value: Any) -> Any:
    return "\n".join(f"- {item}" for item in value) if isinstance(value, list | tuple) else value


Prose = Annotated[str, BeforeValidator(_as_list)]


class ExperimentView(FrozenModel):
    """Fields of an experiment record that the report shows.

    Texts are Markdown paragraphs and lists; a sequence of strings becomes a list.
    """

    model_config = ConfigDict(extra="ignore")

    id: str
    title: str = ""
    parent: str = ""
    """ID of the parent record."""
    changes: Prose = ""
    """Computed differences from the run of the parent."""
    incomplete: tuple[str, ...] = ()
    """Parts that the record lacked when the run was opened."""
    hypothesis: Prose = ""
    rationale: Prose = ""
    expected: tuple[Check, ...] = ()
    next_steps: Prose = ""
    lessons: Prose = ""


class ReportInputs(FrozenModel):
    """Inputs of `write_report`; equal inputs give an equal file."""

    model_config = ConfigDict(extra="ignore")

    title: str
    """Heading, such as the name of the recipe or of the dataset."""
    summary: Summary
    evaluation: EvaluationResult
    """Evaluation, with the results of other tasks in `tasks`."""
    predictions: tuple[Prediction, ...] = ()
    """Lines of predictions.jsonl."""
    metrics: tuple[dict[str, Any], ...] = ()
    """Lines of metrics.jsonl, each with `step`."""
    train: TrainingResult | None = None
    lineage: Lineage | None = None
    """Lineage of the model version; None if the run is not registered."""
    moved: tuple[str, ...] = ()
    """Aliases that the gate moved to this version."""
    experiment: ExperimentView | None = None
    comparisons: tuple[ModelComparison, ...] = ()
    """Comparisons with the run of the parent experiment and with the champion, if they existed."""
    clips: Mapping[str, Path] = Field(default_factory=dict)
    """Local file of each media path; the report only names media without a file."""
    reproduce: tuple[str, ...] = ()
    """Command lines that repeat the run."""
    chat: tuple[str, ...] = ()
    """Command lines that ask the trained model about a clip."""
    max_media_bytes: int = Field(default=8_000_000, ge=0)
    """Maximum base64 bytes of all embedded media, without their previews."""
