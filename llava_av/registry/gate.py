"""The gate: whether a model has earned the alias `champion`, decided in code from evaluation.json alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from llava_av.errors import UserError
from llava_av.registry.expectations import Check, Expectation

__all__ = ["GateError", "GateResult", "evaluate_gate"]

_WHOLE = "av"
_ABLATIONS = ("video_only", "audio_only", "text_only")


class GateError(UserError):
    """An evaluation that is not one."""


class GateResult(BaseModel):
    """What the gate decided."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    passed: bool | None
    """None if the gate was not run."""
    reasons: tuple[str, ...] = ()
    """What fell short, each a sentence with its numbers; or why the gate was not run; empty when passed."""
    checks: tuple[Check, ...] = ()
    """Each expectation of the experiment record beside what was seen."""

    def to_json(self, moved: Sequence[str] = ()) -> dict[str, Any]:
        """The layout of gate.json.

        Args:
            moved: aliases that moved to the model version because of this result.
        """
        return {
            "passed": self.passed,
            "reasons": list(self.reasons),
            "moved": list(moved),
            "expected": [check.model_dump() for check in self.checks],
        }


def evaluate_gate(evaluation: Mapping[str, Any], expected: Sequence[Expectation]) -> GateResult:
    """Decides on the joint questions, which no single stream can answer.

    Video and audio together must beat each ablation (the paired 95 % interval of the difference lies above
    0) and meet every expectation. A dataset without joint questions is not gated.

    Args:
        evaluation: evaluation.json.
        expected: expectations of the experiment record.

    Raises:
        GateError: the evaluation has no accuracy of video and audio together.
    """
    accuracy = evaluation.get("accuracy", {}).get(_WHOLE)
    if not accuracy:
        raise GateError("evaluation.json has no accuracy.av; run the evaluation again")
    checks = tuple(expectation.check(evaluation) for expectation in expected)
    if "joint" not in accuracy:
        kinds = ", ".join(accuracy)
        reason = f"the gate judges joint questions, and this dataset has only the kind {kinds}"
        return GateResult(passed=None, reasons=(reason,), checks=checks)
    unbeaten = [_unbeaten(evaluation, name) for name in _ABLATIONS]
    short = [reason for reason in unbeaten if reason is not None]
    short += [check.sentence for check in checks if not check.met]
    return GateResult(passed=not short, reasons=tuple(short), checks=checks)


def _unbeaten(evaluation: Mapping[str, Any], ablation: str) -> str | None:
    """Why video and audio together do not beat the ablation; None if they do."""
    difference = evaluation.get("differences", {}).get(ablation, {}).get("joint")
    if difference is None:
        return f"accuracy.av.joint was not compared with accuracy.{ablation}.joint; evaluate every ablation"
    if difference["low"] > 0:
        return None
    return (
        f"accuracy.av.joint minus accuracy.{ablation}.joint is {difference['value']:.2f} with a 95 % "
        f"interval of {difference['low']:.3f} to {difference['high']:.3f}, expected to lie above 0"
    )
