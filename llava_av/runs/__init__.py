"""Runs and their objects in S3.

A run is a recipe, a dataset commit, an experiment record and the code, under an ID that is a hash of them.
Each step leaves JSON objects below `runs/<run ID>/`, and each object is a class here: `artifact_base.py` has
their base, `request.py` the request, `training.py` and `evaluation.py` the results of the jobs,
`lineage.py` and `registration.py` the model version, the gate's decision (`checks.py`) and the
outcome, and `summary.py` the numbers for other tools. `names.py` names the objects that are not JSON.
`run.py` reads and writes them all.

No other package spells the name or a key of these objects. Objects that earlier versions wrote still load:
`tests/unit/golden/runs/` has a sample of each.
"""

from llava_av.runs.artifact_base import TRAIN_COMMAND, Artifact, ArtifactError
from llava_av.runs.checks import Check, Operator, Over
from llava_av.runs.evaluation import (
    Accuracy,
    AnswerPart,
    AskingCost,
    EvaluatedDataset,
    EvaluationCost,
    EvaluationResult,
    EvaluationWork,
    Interval,
    KindAccuracy,
    PairedCell,
    PairedComparison,
    Prediction,
    Scores,
    TaskNote,
)
from llava_av.runs.lineage import CheckpointLineage, JobLineage, Lineage
from llava_av.runs.names import evaluation_place, is_run_id
from llava_av.runs.registration import (
    Change,
    ComparedNumber,
    Comparisons,
    GateDecision,
    ModelComparison,
    PromotionStart,
    Registration,
    Reproduction,
    RunOutcome,
)
from llava_av.runs.request import (
    DatasetName,
    ExperimentName,
    Opened,
    RunCode,
    RunRequest,
    named_datasets,
)
from llava_av.runs.run import Run, RunMissing
from llava_av.runs.summary import (
    ExpectedResult,
    GateSummary,
    ModelVersion,
    QuarantinedFile,
    Summary,
    unfit_sample_name,
)
from llava_av.runs.training import (
    BadSample,
    BadSamplesReport,
    BestCheckpoint,
    CheckpointName,
    LossSpike,
    LossSpikes,
    MixShare,
    NotFiniteReport,
    StageResults,
    Starts,
    StepDuration,
    TrainedCheckpoint,
    TrainedStage,
    TrainingResult,
    UnfitSample,
)

__all__ = [
    "TRAIN_COMMAND",
    "Accuracy",
    "AnswerPart",
    "Artifact",
    "ArtifactError",
    "AskingCost",
    "BadSample",
    "BadSamplesReport",
    "BestCheckpoint",
    "Change",
    "Check",
    "CheckpointLineage",
    "CheckpointName",
    "ComparedNumber",
    "Comparisons",
    "DatasetName",
    "EvaluatedDataset",
    "EvaluationCost",
    "EvaluationResult",
    "EvaluationWork",
    "ExpectedResult",
    "ExperimentName",
    "GateDecision",
    "GateSummary",
    "Interval",
    "JobLineage",
    "KindAccuracy",
    "Lineage",
    "LossSpike",
    "LossSpikes",
    "MixShare",
    "ModelComparison",
    "ModelVersion",
    "NotFiniteReport",
    "Opened",
    "Operator",
    "Over",
    "PairedCell",
    "PairedComparison",
    "Prediction",
    "PromotionStart",
    "QuarantinedFile",
    "Registration",
    "Reproduction",
    "Run",
    "RunCode",
    "RunMissing",
    "RunOutcome",
    "RunRequest",
    "Scores",
    "StageResults",
    "Starts",
    "StepDuration",
    "Summary",
    "TaskNote",
    "TrainedCheckpoint",
    "TrainedStage",
    "TrainingResult",
    "UnfitSample",
    "evaluation_place",
    "is_run_id",
    "named_datasets",
    "unfit_sample_name",
]
