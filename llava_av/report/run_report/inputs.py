"""What a report is made from: plain rows, so that it can be made again from stored files alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field

from llava_av.frozen import FrozenModel
from llava_av.report.run_report.summary import Summary

__all__ = [
    "ComparedNumber",
    "ComparisonView",
    "Difference",
    "ExpectedRow",
    "ExperimentView",
    "PredictionRow",
    "ReportInputs",
]


class _Row(FrozenModel):
    model_config = ConfigDict(extra="ignore", from_attributes=True)


def _as_list(value: Any) -> Any:
    return "\n".join(f"- {item}" for item in value) if isinstance(value, list | tuple) else value


Prose = Annotated[str, BeforeValidator(_as_list)]


class ExpectedRow(_Row):
    """One checkable statement of an experiment record beside what was seen, as in `registry.Check`."""

    metric: str
    """Such as `accuracy.av.joint`."""
    task: str | None = None
    """The benchmark; null for the held-out split."""
    over: str | None = None
    """`parent` or `champion`, where the metric is the difference to it."""
    comparison: str
    """Such as `>=`."""
    expected: float | None
    """Null where the bound is the chance of a question without choices."""
    by_chance: bool = False
    """Whether the bound was given as `chance`."""
    seen: float | None = None
    """Null when the run did not measure it."""
    low: float | None = None
    high: float | None = None
    met: bool | None = None
    """Null when it could not be checked."""

    @property
    def margin(self) -> float | None:
        """How far what was seen lies from the bound; null when it could not be checked."""
        if self.seen is None or self.expected is None or self.met is None:
            return None
        return abs(self.seen - self.expected)


class ExperimentView(_Row):
    """An experiment record as far as the report shows it.

    Texts are paragraphs and lists in Markdown; a sequence of strings becomes a list.
    """

    id: str
    title: str = ""
    parent: str = ""
    """Id of the record that it follows."""
    changes: Prose = ""
    """What differs from the parent's run, as computed."""
    incomplete: tuple[str, ...] = ()
    """What the record lacked when the run was opened."""
    hypothesis: Prose = ""
    rationale: Prose = ""
    expected: tuple[ExpectedRow, ...] = ()
    next_steps: Prose = ""
    lessons: Prose = ""


class PredictionRow(_Row):
    """One line of predictions.jsonl."""

    id: str
    ablation: str
    kind: str
    question: str
    answer: str
    reply: str
    parsed: str | None = None
    """The choice that the reply names; null when it names none."""
    choices: tuple[str, ...] = ()
    correct: bool
    loss: float | None = None
    """Of the right answer, in nats a token."""
    clip: str | None = None
    """Media path relative to the dataset's folder."""


class Difference(_Row):
    """Accuracy with everything minus accuracy of an ablation on the same questions, 95 % interval."""

    value: float
    low: float
    high: float


class ComparedNumber(_Row):
    """One accuracy of this model beside another one's."""

    ablation: str
    family: str
    first: float
    """The other one's."""
    second: float
    """This model's."""
    value: float
    """The second minus the first."""
    low: float
    """Lower end of the 95 % interval of `value`."""
    high: float
    paired: bool
    """Whether both answered the same questions, so that the interval is paired."""


class ComparisonView(_Row):
    """This model beside another one, as comparisons.json has it."""

    over: str
    """`parent` or `champion`."""
    label: str
    """Which one that is, such as `version 3`."""
    rows: tuple[ComparedNumber, ...] = ()


class ReportInputs(_Row):
    """Everything that `write_report` shows; equal inputs give an equal file."""

    title: str
    """Heading, such as the name of the recipe or of the dataset."""
    summary: Summary
    """What `build_summary` gave."""
    evaluation: Mapping[str, Any]
    """evaluation.json, with those of other tasks by name under `tasks`."""
    predictions: tuple[PredictionRow, ...] = ()
    """Lines of predictions.jsonl."""
    metrics: tuple[dict[str, Any], ...] = ()
    """Lines of metrics.jsonl, each with `step`."""
    train: Mapping[str, Any] = Field(default_factory=dict)
    """train.json."""
    lineage: Mapping[str, Any] = Field(default_factory=dict)
    """The lineage record of the model version."""
    moved: tuple[str, ...] = ()
    """Aliases that the gate moved to this version."""
    experiment: ExperimentView | None = None
    comparisons: tuple[ComparisonView, ...] = ()
    """With the parent experiment's run and with the champion, as far as there were such."""
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
