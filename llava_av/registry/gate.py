"""Gates as data: what a model must show to get an alias, decided here alone, from evaluation.json alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from llava_av.documents import read_document, validate
from llava_av.errors import UserError
from llava_av.frozen import FrozenModel
from llava_av.registry.baselines import Reference
from llava_av.registry.expectations import FAMILIES, Check, Expectation, Over, misspelt

__all__ = ["Gate", "GateError", "GateResult", "evaluate_gate", "gate_folder", "load_gate"]

_WHOLE = "av"


class GateError(UserError):
    """A gate that is missing or not one, or an evaluation that is not one."""


class Gate(FrozenModel):
    """The rules of one alias."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    """Lower-case name; also the name of the file."""
    family: str | None = None
    """Family of questions that must be there: without it nothing is decided. None: whatever is there."""
    record: bool = True
    """Whether the expectations of the experiment record are rules, too."""
    rules: tuple[Expectation, ...]
    """What must hold. Where there is no champion yet, a comparison with it decides nothing."""

    @field_validator("family")
    @classmethod
    def _is_family(cls, family: str | None) -> str | None:
        meant = misspelt(family, FAMILIES) if family else None
        if meant:
            raise ValueError(f"none of {', '.join(FAMILIES)}; did you mean {meant}?")
        return family


class GateResult(FrozenModel):
    """What a gate decided."""

    passed: bool | None
    """None if the gate was not run."""
    reasons: tuple[str, ...] = ()
    """What fell short, each a sentence with its numbers; or why the gate was not run; empty when passed."""
    checks: tuple[Check, ...] = ()
    """Each expectation of the experiment record beside what was seen."""
    rules: tuple[Check, ...] = ()
    """Each rule of the gate beside what was seen; without those that were passed over."""

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
            "rules": [check.model_dump() for check in self.rules],
        }


def gate_folder() -> Path:
    """The folder of the gates that come with the code."""
    return Path(__file__).resolve().parent.parent.parent / "gates"


def load_gate(given: str) -> Gate:
    """Reads a gate by path, by name from the gates that come with the code, or from JSON text.

    Raises:
        GateError: no such gate, YAML that does not parse, a rule on an unknown metric, or another name than
            that of its file.
    """
    document = read_document(given, kind="gate", folder=gate_folder(), error=GateError)
    gate = validate(Gate, document.content, where=document.where, error=GateError)
    if document.path is not None and document.path.stem != gate.name:
        raise GateError(f"{document.where}: name: {gate.name!r} is not the name of the file")
    return gate


def evaluate_gate(
    evaluation: Mapping[str, Any],
    expected: Sequence[Expectation],
    gate: Gate,
    references: Mapping[Over, Reference] | None = None,
) -> GateResult:
    """Decides whether every rule holds, and every expectation where the gate asks for them.

    Args:
        evaluation: evaluation.json.
        expected: expectations of the experiment record; they are checked in any case.
        gate: the rules.
        references: `parent` and `champion`, as far as there are such.

    Raises:
        GateError: the evaluation has no accuracy of video and audio together.
    """
    accuracy = evaluation.get("accuracy", {}).get(_WHOLE)
    if not accuracy:
        raise GateError("evaluation.json has no accuracy.av; run the evaluation again")
    checks = tuple(expectation.check(evaluation, references) for expectation in expected)
    if gate.family is not None and gate.family not in accuracy:
        kinds = ", ".join(accuracy)
        reason = f"the gate judges {gate.family} questions, and this dataset has only the kind {kinds}"
        return GateResult(passed=None, reasons=(reason,), checks=checks)
    with_champion = "champion" in (references or {})
    asked = tuple(rule.check(evaluation, references) for rule in gate.rules)
    # Without a champion a comparison with it is passed over, but not one of a number that is not there.
    rules = tuple(check for check in asked if check.over != "champion" or with_champion or check.lacks)
    judged = (*rules, *(checks if gate.record else ()))
    short = [
        check.sentence
        for check in judged
        if not check.met and (check.over != "champion" or with_champion or check.lacks)
    ]
    return GateResult(passed=not short, reasons=tuple(short), checks=checks, rules=rules)
