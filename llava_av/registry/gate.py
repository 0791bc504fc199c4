"""Gates as data: the rules for an alias, decided here alone, from evaluations alone."""

from collections.abc import Mapping, Sequence

from pydantic import Field, field_validator

from llava_av.documents import read_document, validate
from llava_av.errors import UserError
from llava_av.frozen import FrozenModel
from llava_av.named_files import FileKind, named_folders, project_folder
from llava_av.registry.baselines import Baseline
from llava_av.registry.expectations import Expectation, check_all, misspelt
from llava_av.registry.history import CHALLENGER, CHAMPION
from llava_av.runs import Check, EvaluationResult, GateDecision, Over
from llava_av.vocabulary import Ablation, QuestionFamily

__all__ = ["Gate", "GateError", "applicable_gate", "challenger_gate", "evaluate_gate", "load_gate"]


class GateError(UserError):
    """A gate that is missing or invalid, or an evaluation without the accuracy that gates judge."""


class Gate(FrozenModel):
    """Rules of one alias."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    """Lower-case name; also the name of the file."""
    family: str | None = None
    """Family of questions that the evaluation must have. None: any."""
    otherwise: str | None = None
    """Name of the gate that decides if the evaluation lacks `family`. None: nothing is decided."""
    record: bool = True
    """True to apply the expectations of the experiment record as rules as well."""
    rules: tuple[Expectation, ...]
    """Expectations that must be met. Without a champion, a comparison with it decides nothing."""

    @field_validator("family")
    @classmethod
    def _is_family(cls, family: str | None) -> str | None:
        meant = misspelt(family, tuple(QuestionFamily)) if family else None
        if meant:
            raise ValueError(f"not one of {', '.join(QuestionFamily)}; did you mean {meant}?")
        return family


def load_gate(given: str) -> Gate:
    """Read a gate by path, by name from the project or the package, or from JSON text.

    Raises:
        GateError: The gate does not exist, its YAML does not parse, a rule has an unknown metric, or its name
            is not that of its file.
    """
    folders = named_folders(FileKind.GATES)
    document = read_document(given, kind="gate", folders=folders, error=GateError)
    gate = validate(Gate, document.content, where=document.where, error=GateError)
    if document.path is not None and document.path.stem != gate.name:
        raise GateError(f"{document.where}: name: {gate.name!r} is not the name of the file")
    return gate


def applicable_gate(gate: Gate, evaluation: EvaluationResult) -> Gate:
    """Return the gate, or the one in `otherwise` if the evaluation lacks the gate's family.

    Raises:
        GateError: The gate in `otherwise` does not exist or is invalid.
    """
    applies = gate.family is None or gate.family in evaluation.accuracy.get(Ablation.AUDIO_VISUAL, {})
    return gate if applies or gate.otherwise is None else load_gate(gate.otherwise)


def challenger_gate(gate: Gate, evaluation: EvaluationResult) -> Gate:
    """Return the gate of a challenger: the project's own, or the champion's without comparisons with it.

    Args:
        gate: Gate of the champion that applies to the evaluation.
        evaluation: The evaluation.

    Raises:
        GateError: The project's gate is invalid.
    """
    own = project_folder(FileKind.GATES) / f"{CHALLENGER}.yaml"
    if own.is_file():
        return applicable_gate(load_gate(str(own)), evaluation)
    alone = tuple(rule for rule in gate.rules if rule.over != CHAMPION)
    return gate.model_copy(update={"rules": alone})


def evaluate_gate(
    evaluation: EvaluationResult,
    expected: Sequence[Expectation],
    gate: Gate,
    baselines: Mapping[Over, Baseline] | None = None,
) -> GateDecision:
    """Decide whether every rule is met, and every expectation if the gate asks for them.

    Args:
        evaluation: The evaluation, with its `tasks`.
        expected: Expectations of the experiment record; they are checked in any case.
        gate: The rules.
        baselines: `parent` and `champion`, as far as they exist.

    Raises:
        GateError: The evaluation has no accuracy of video and audio together.
    """
    accuracy = evaluation.accuracy.get(Ablation.AUDIO_VISUAL)
    if not accuracy:
        raise GateError("evaluation.json has no accuracy.av: run the evaluation again")
    checks = check_all(expected, evaluation, baselines)
    if gate.family is not None and gate.family not in accuracy:
        kinds = ", ".join(accuracy)
        reason = f"the gate judges {gate.family} questions, and this dataset has only {kinds} questions"
        return GateDecision(passed=None, reasons=(reason,), expected=checks)
    has_champion = CHAMPION in (baselines or {})
    rules = tuple(
        check
        for check in check_all(gate.rules, evaluation, baselines)
        if _decides(check, has_champion=has_champion)
    )
    judged = (*rules, *(checks if gate.record else ()))
    failed = tuple(
        check.sentence for check in judged if not check.met and _decides(check, has_champion=has_champion)
    )
    return GateDecision(passed=not failed, reasons=failed, expected=checks, rules=rules)


def _decides(check: Check, *, has_champion: bool) -> bool:
    """Skip a comparison with a champion that does not exist, unless this model's own number is missing."""
    return check.over != CHAMPION or has_champion or bool(check.lacks)
