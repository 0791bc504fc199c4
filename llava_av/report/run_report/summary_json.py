"""Construction of summary.json from the objects that the steps wrote."""

from collections.abc import Mapping, Sequence

from llava_av.runs import (
    CheckpointName,
    EvaluationResult,
    ExpectedResult,
    GateDecision,
    GateSummary,
    ModelVersion,
    QuarantinedFile,
    Registration,
    Summary,
)

__all__ = ["build_summary"]


def build_summary(
    *,
    dataset_commit: str,
    checkpoint: CheckpointName,
    registered: Registration | None,
    evaluation: EvaluationResult,
    gate: GateDecision | None,
    seconds: Mapping[str, float],
    quarantined: Sequence[QuarantinedFile],
) -> Summary:
    """Build the summary of a run.

    Args:
        dataset_commit: ID of the dataset commit.
        checkpoint: The checkpoint that was evaluated.
        registered: The registration; None if nothing was registered.
        evaluation: The evaluation; the summary has its accuracies.
        gate: The decision of the gate; None if there is none.
        seconds: Duration by step name, without a total.
        quarantined: Files that were left out of the dataset, and samples that the model does not support.

    Raises:
        pydantic.ValidationError: A value is not finite or out of range.
    """
    version = ModelVersion()
    if registered is not None:
        version = ModelVersion(name=registered.name, version=registered.version, aliases=registered.aliases)
    expected = gate.expected if gate is not None else ()
    return Summary(
        dataset_commit=dataset_commit,
        checkpoint=CheckpointName(uri=checkpoint.uri, digest=checkpoint.digest),
        model_version=version,
        accuracy=evaluation.accuracy,
        gate=GateSummary(passed=gate.passed, reasons=gate.reasons) if gate is not None else GateSummary(),
        expected=tuple(ExpectedResult(outcome=check.outcome, met=check.met) for check in expected),
        seconds=dict(seconds),
        quarantined=tuple(quarantined),
    )
