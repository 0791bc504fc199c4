"""Objects that an evaluation reads and writes."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import ClassVar

from pydantic import ConfigDict, Field, JsonValue

from llava_av.recipe import MediaRecipe
from llava_av.runs.artifact_base import Artifact, ArtifactPart
from llava_av.runs.request import DatasetName
from llava_av.runs.training import CheckpointName, UnfitSample
from llava_av.vocabulary import family_of

__all__ = [
    "Accuracy",
    "AnswerPart",
    "AskingCost",
    "EvaluatedDataset",
    "EvaluationCost",
    "EvaluationResult",
    "EvaluationWork",
    "Interval",
    "KindAccuracy",
    "PairedCell",
    "PairedComparison",
    "Prediction",
    "Scores",
    "TaskNote",
]

_PROTOCOL = 3
"""Version of how questions are asked and scored; results of different versions are not interchangeable."""


class Interval(ArtifactPart):
    """A value with its 95 % confidence interval."""

    value: float
    low: float
    high: float


class Accuracy(Interval):
    """Share of correct answers."""

    chance: float | None = None
    """Expected accuracy of guessing, weighted by n over the kinds; None for questions without choices."""
    n: int
    """Number of answers."""
    unparsed: int = 0
    """Answers among them that name no choice; they count as wrong in `value`."""


class KindAccuracy(Accuracy):
    """Accuracy and mean loss of one kind of question, or of one combination of modalities."""

    loss: float | None = None
    """Of the correct answer, in nats per token; None in results of versions that did not write it."""


class TaskNote(ArtifactPart):
    """Task of an evaluation."""

    name: str
    version: int
    """Of the task's file: of its prompt and of how its data are read."""
    rule: str
    """Parsing rule for replies; a name in `llava_av.evaluation.reply_parsing.RULES`."""
    rule_version: int
    prompt: str
    """Template with `{question}` and `{choices}`; empty if the data contain whole conversations."""


class EvaluatedDataset(DatasetName):
    """Questions of an evaluation."""

    split: str | None = None
    """None in results of versions that always used the held-out split."""


class AskingCost(ArtifactPart):
    """Cost of answers; an input that several questions share is asked and counted once."""

    seconds: float = 0.0
    """Time of the model, summed over processes."""
    prompt_tokens: int = 0
    """Tokens that the model read, including media, without padding."""
    new_tokens: int = 0
    """Tokens that it generated."""


class EvaluationCost(AskingCost):
    """Cost of a whole evaluation."""

    tokens_per_s: float | None = None
    """Of one process."""
    processes: int = 1


class EvaluationWork(Artifact):
    """request.json of an evaluation: equal work gives equal answers."""

    model_config = ConfigDict(extra="forbid")
    NAME: ClassVar[str] = "request.json"

    task: TaskNote
    dataset: DatasetName
    split: str
    checkpoint: CheckpointName
    media: MediaRecipe | None
    """Decoding of clips; None: as in the model's config."""
    max_new_tokens: int = Field(ge=1)
    """Longest reply."""
    bootstrap_draws: int = Field(ge=200)
    """Resamples behind each interval."""
    seed: int = Field(ge=0)
    """Of the resamples and of the shuffled audio."""
    batch_size: int = Field(ge=1)
    """Samples asked together: changes the time, but no answer."""
    adapter_base: str | None = None
    """Address of the base model if the checkpoint is an adapter, whose files pin it; None otherwise."""

    def identity(self) -> str:
        """Return a digest of everything that answers depend on, 64 hex digits."""
        parts = {
            "protocol": _PROTOCOL,
            **self.model_dump(mode="json", exclude={"batch_size", "adapter_base"}),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Scores(ArtifactPart):
    """Metrics of an evaluation."""

    accuracy: dict[str, dict[str, Accuracy]]
    """By ablation, then by question family."""
    kinds: dict[str, dict[str, KindAccuracy]] = Field(default_factory=dict)
    """By ablation, then by kind of question."""
    loss: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Mean loss of the correct answers in nats per token, by ablation, then by family."""
    modalities: dict[str, KindAccuracy] = Field(default_factory=dict)
    """By the modalities of the samples, with nothing removed."""
    differences: dict[str, dict[str, Interval]] = Field(default_factory=dict)
    """Accuracy with nothing removed minus that of each other ablation, by ablation, then by family."""

    def cells(self) -> Iterator[tuple[str, str, Accuracy]]:
        """Iterate over ablation, family and accuracy."""
        for ablation, families in self.accuracy.items():
            for family, cell in families.items():
                yield ablation, family, cell

    def table(self, name: str) -> Mapping[str, Mapping[str, Interval | float]]:
        """Return `accuracy`, `loss` or `differences`: numbers by ablation, then by family."""
        found: Mapping[str, Mapping[str, Interval | float]] = getattr(self, name)
        return found

    def number(self, table: str, ablation: str, family: str) -> Interval | float | None:
        """Return a number of `table`; None if the evaluation lacks it."""
        return self.table(table).get(ablation, {}).get(family)


class EvaluationResult(Artifact, Scores):
    """evaluation.json: written last, so that a run with this object is evaluated."""

    NAME: ClassVar[str] = "evaluation.json"
    COMMAND: ClassVar[str] = "evaluate {run}"

    identity: str | None = None
    """`EvaluationWork.identity` of the work that was done."""
    task: TaskNote | None = None
    """None in results of versions that had no tasks."""
    dataset: EvaluatedDataset
    checkpoint: CheckpointName
    predictions_sha256: str | None = None
    left_out: dict[str, str] = Field(default_factory=dict)
    """Reason for each ablation that was left out."""
    unfit: tuple[UnfitSample, ...] = ()
    cost: EvaluationCost | None = None
    seconds: float = 0.0

    tasks: dict[str, "EvaluationResult"] = Field(default_factory=dict, exclude=True)
    """Results of the same checkpoint on other tasks, by name. They are objects of their own in S3."""

    @property
    def task_version(self) -> str:
        """Return the version of the task, for readers."""
        return str(self.task.version) if self.task is not None else "not recorded"


class Prediction(ArtifactPart):
    """One question under one ablation: one line of predictions.jsonl."""

    model_config = ConfigDict(allow_inf_nan=False)

    id: str
    """ID of the sample."""
    ablation: str
    """Ablation under which the model was asked."""
    kind: str
    """Kind of the question, such as `joint_colour`; `all` if the sample states none."""
    question: str
    """Question as shown to readers, without placeholders."""
    choices: tuple[str, ...] = ()
    """Allowed answers; empty for an open question."""
    answer: str
    """Correct answer."""
    reply: str
    """Text that the model generated."""
    parsed: str | None = None
    """Answer parsed from `reply`; None if there is none."""
    correct: bool
    loss: float
    """Mean negative log-likelihood of the correct answer's tokens, in nats per token."""
    clip: str | None = None
    """Path of the clip within the dataset; None for a sample without media."""
    modalities: str = ""
    """Modalities of the sample with nothing removed, such as `video_audio`; empty if it was not recorded."""

    @property
    def family(self) -> str:
        """Return the family of `kind`."""
        return family_of(self.kind)

    def to_json_line(self) -> str:
        """Return the prediction as one line of JSON with its newline."""
        return self.model_dump_json() + "\n"


class PairedCell(ArtifactPart):
    """Answers of two models to the same questions."""

    first: float
    """Accuracy of the first model."""
    second: float
    difference: Interval
    """First model minus second model."""
    p: float
    """Two-sided p value of the exact permutation test; of a kind, adjusted for the number of kinds."""
    only_first: int
    """Questions that only the first model answered correctly."""
    only_second: int
    n: int
    clips: int
    unparsed: tuple[int, int]


class PairedComparison(ArtifactPart):
    """Two models under one ablation, over all questions, by family and by kind."""

    ablation: str
    all: PairedCell
    families: dict[str, PairedCell]
    kinds: dict[str, PairedCell]


class AnswerPart(ArtifactPart):
    """parts/<identity>/<digest>.json: the answers of one batch under one ablation."""

    predictions: tuple[Prediction, ...]
    cost: AskingCost

    def to_json(self) -> dict[str, JsonValue]:
        """Return the content of the object in S3."""
        return self.model_dump(mode="json")
