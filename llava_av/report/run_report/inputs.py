"""The inputs of a report: artifacts of the run, so that it can be made again from stored objects alone."""

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
    """An experiment record as far as the report shows it.

    Texts are paragraphs and lists in Markdown; a sequence of strings becomes a list.
    """

    model_config = ConfigDict(extra="ignore")

    id: str
    title: str = ""
    parent: str = ""
    """ID of the parent record."""
    changes: Prose = ""
    """Computed differences from the parent's run."""
    incomplete: tuple[str, ...] = ()
    """Parts that the record lacked when the run was opened."""
    hypothesis: Prose = ""
    rationale: Prose = ""
    expected: tuple[Check, ...] = ()
    next_steps: Prose = ""
    lessons: Prose = ""


class ReportInputs(FrozenModel):
    """Everything that `write_report` shows; equal inputs give an equal file."""

    model_config = ConfigDict(extra="ignore")

    title: str
    """Heading, such as the name of the recipe or of the dataset."""
    summary: Summary
    evaluation: EvaluationResult
    """With the results of other tasks in `tasks`."""
    predictions: tuple[Prediction, ...] = ()
    """Lines of predictions.jsonl."""
    metrics: tuple[dict[str, Any], ...] = ()
    """Lines of metrics.jsonl, each with `step`."""
    train: TrainingResult | None = None
    lineage: Lineage | None = None
    """Of the model version; None if the run is not registered."""
    moved: tuple[str, ...] = ()
    """Aliases that the gate moved to this version."""
    experiment: ExperimentView | None = None
    comparisons: tuple[ModelComparison, ...] = ()
    """With the parent experiment's run and with the champion, as far as they existed."""
    clips: Mapping[str, Path] = Field(default_factory=dict)
    """Local file of each media path; paths that it lacks are named, not played."""
    reproduce: tuple[str, ...] = ()
    """Command lines that make the run again."""
    chat: tuple[str, ...] = ()
    """Command lines that ask the trained model about a clip."""
    max_clips: int = Field(default=8, ge=0)
    """Clips shown with their questions."""
    max_media_bytes: int = Field(default=8_000_000, ge=0)
    """Bytes that all embedded media may take in the page, as base64, beside a small preview of each."""
