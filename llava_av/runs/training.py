"""Objects that training writes."""

from typing import ClassVar

from pydantic import Field

from llava_av.provenance.environment import Environment
from llava_av.runs.artifact_base import Artifact, ArtifactPart

__all__ = [
    "BadSample",
    "BadSamplesReport",
    "BestCheckpoint",
    "CheckpointName",
    "LossSpike",
    "LossSpikes",
    "MixShare",
    "NotFiniteReport",
    "StageResults",
    "Starts",
    "StepDuration",
    "TrainedCheckpoint",
    "TrainedStage",
    "TrainingResult",
    "UnfitSample",
]


class CheckpointName(ArtifactPart):
    """A checkpoint in S3 and the digest of its state."""

    uri: str
    digest: str


class TrainedCheckpoint(CheckpointName):
    """Checkpoint of a training."""

    step: int
    """Optimizer steps behind it."""

    def name(self) -> CheckpointName:
        """Return the checkpoint without its step."""
        return CheckpointName(uri=self.uri, digest=self.digest)


class BestCheckpoint(TrainedCheckpoint):
    """Checkpoint with the lowest held-out loss."""

    held_out_loss: float


class UnfitSample(ArtifactPart):
    """A sample that the model cannot take."""

    id: str
    reason: str


class MixShare(ArtifactPart):
    """Share of one of several datasets in a training."""

    name: str
    samples: int
    """Training samples that the order draws from."""
    left_out: int
    """Training samples left out because another dataset of the run holds out the same media."""
    wanted_share: float
    """Share of the samples by the weights of the recipe, else by the number of samples."""
    observed_share: float | None
    """Share of the samples of all steps in the journal; None if it is lost."""


class TrainedStage(ArtifactPart):
    """A finished stage of a training."""

    name: str
    first_step: int
    """Step that it started at."""
    last_step: int
    """Steps up to its end, fewer than planned if it stopped early."""
    checkpoint: TrainedCheckpoint
    """Its last or its best checkpoint, as the recipe says; the next stage starts from it."""
    model_digest: str | None
    """Digest of the model in the checkpoint; None for an adapter, which only the last stage trains."""
    best: BestCheckpoint | None = None
    """None if no held-out loss was measured."""
    mix: tuple[MixShare, ...] = ()
    """Share of each dataset in its steps; empty for a single one."""

    @property
    def steps(self) -> int:
        """Return the optimizer steps that it took."""
        return self.last_step - self.first_step


class StageResults(Artifact):
    """stages.json: the finished stages of a training, except the last one, whose end is train.json."""

    NAME: ClassVar[str] = "stages.json"

    stages: tuple[TrainedStage, ...] = ()
    """In their order."""


class TrainingResult(Artifact):
    """train.json: written last, so that a run with this object is trained."""

    NAME: ClassVar[str] = "train.json"

    run: str
    checkpoint: TrainedCheckpoint
    """Result of the run: its last or its best checkpoint, as the recipe says."""
    best: BestCheckpoint | None = None
    """None if no held-out loss was measured."""
    steps: int
    """Optimizer steps taken, fewer than in the recipe if training stopped early."""
    resumed_from: int | None
    """Step of the checkpoint that the job resumed from; None if it started at step 0."""
    engine: str
    processes: int
    environment: Environment | None = None
    parameters: int | None = None
    unfit: tuple[UnfitSample, ...] = ()
    mix: tuple[MixShare, ...] = ()
    """Share of each dataset in the last stage; empty for a single one."""
    stages: tuple[TrainedStage, ...] = ()
    """All stages; empty for a training without stages."""
    seconds: float
    mlflow_run_id: str | None = None
    """None if MLflow was not reachable; `llava-av register` then logs what is missing."""


class Starts(Artifact):
    """starts.json: the number of training jobs that were started for the run."""

    NAME: ClassVar[str] = "starts.json"

    starts: int = Field(ge=0)


class NotFiniteReport(Artifact):
    """not-finite.json: the step in which training stopped because of a value that is not finite."""

    NAME: ClassVar[str] = "not-finite.json"

    step: int
    """Counted from 0."""
    cause: str
    """Name of the value that is not finite, such as `the loss`."""
    samples: tuple[str, ...]
    """IDs of the samples of the step, over all processes."""
    culprits: tuple[str, ...]
    """Those that may have caused it."""
    learning_rate: float


class LossSpike(ArtifactPart):
    """A step whose loss was far above that of the steps before."""

    step: int
    """Counted from 0."""
    loss: float
    median: float
    """Running median of the losses before."""
    samples: tuple[str, ...]
    """IDs of the samples of the step, over all processes."""


class LossSpikes(Artifact):
    """loss-spikes.json: the newest loss spikes of a training up to its last checkpoint."""

    NAME: ClassVar[str] = "loss-spikes.json"
    MOST: ClassVar[int] = 100
    """Number of spikes that are kept."""

    spikes: tuple[LossSpike, ...] = ()


class BadSample(UnfitSample):
    """A sample that failed to decode in a step of a training."""

    step: int
    """First step in which it failed, counted from 0."""


class BadSamplesReport(Artifact):
    """bad-samples.json: samples that failed to decode in the steps before the last checkpoint."""

    NAME: ClassVar[str] = "bad-samples.json"

    samples: tuple[BadSample, ...] = ()


class StepDuration(Artifact):
    """seconds/<step>.json: the wall time of a step of the workflow."""

    NAME: ClassVar[str] = "seconds/{step}.json"

    seconds: float
