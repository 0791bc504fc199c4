"""Paired comparison of two models on the same questions, overall, by family and by kind of question.

Every difference is A minus B, the first model minus the second. Resamples do not depend on a run's recipe, so
each command and report gives the same interval for the same pair.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from llava_av.evaluation.aggregation import cluster_of
from llava_av.evaluation.scoring import EvaluationError
from llava_av.evaluation.statistics import holm_adjusted, paired_bootstrap, paired_permutation_test
from llava_av.recipe import EvaluationRecipe
from llava_av.runs import (
    EvaluatedDataset,
    EvaluationResult,
    Interval,
    PairedCell,
    PairedComparison,
    Prediction,
    TaskNote,
)
from llava_av.vocabulary import Ablation, QuestionFamily, in_order

__all__ = ["compare_predictions", "paired_differences", "require_same_task"]

_Pair = tuple[Prediction, Prediction]
_DRAWS = EvaluationRecipe().bootstrap_draws
_SEED = 0


def require_same_task(first: EvaluationResult, second: EvaluationResult) -> TaskNote:
    """Check that two evaluations asked the same questions, and return their task.

    Raises:
        EvaluationError: The task, its version, or the data differ; the message names both sides.
    """
    if first.task is None or first.task != second.task:
        raise _different("task", first.task, second.task)
    if first.dataset != second.dataset:
        raise _different("dataset", first.dataset, second.dataset)
    return first.task


def _different(
    name: str, one: TaskNote | EvaluatedDataset | None, other: TaskNote | EvaluatedDataset | None
) -> EvaluationError:
    return EvaluationError(
        f"cannot compare models that were asked different questions, {name} {_short(one)} against "
        f"{_short(other)}: evaluate both models on the same task and data"
    )


def compare_predictions(
    first: Iterable[Prediction], second: Iterable[Prediction], *, ablation: str = Ablation.AUDIO_VISUAL
) -> PairedComparison:
    """Compute the accuracy of the first model (A) minus that of the second (B), over all, families and kinds.

    Args:
        first: Answers of A.
        second: Answers of B to the same questions.
        ablation: Ablation under which both were asked.

    Raises:
        EvaluationError: The models answered different questions, or none under the ablation.
    """
    one, other = ([item for item in side if item.ablation == ablation] for side in (first, second))
    pairs = _required_pairs(one, other, ablation)
    kinds = _cells(pairs, sorted({one.kind for one, _ in pairs}), lambda item: item.kind)
    adjusted = holm_adjusted([cell.p for cell in kinds.values()])
    return PairedComparison(
        ablation=ablation,
        all=_cell(pairs),
        families=_cells(
            pairs, in_order({one.family for one, _ in pairs}, QuestionFamily), lambda item: item.family
        ),
        kinds={
            kind: cell.model_copy(update={"p": p})
            for (kind, cell), p in zip(kinds.items(), adjusted, strict=True)
        },
    )


def paired_differences(
    first: Iterable[Prediction], second: Iterable[Prediction]
) -> dict[str, dict[str, Interval]]:
    """Compute the accuracy of the first model (A) minus that of the second (B), by ablation and family.

    Ablations and families that only one model has are left out. If the models answered different questions
    of the others, there is no paired difference at all.
    """
    one, other = _by_cell(first), _by_cell(second)
    found: dict[str, dict[str, Interval]] = defaultdict(dict)
    for cell in one.keys() & other.keys():
        pairs = _pairs(one[cell], other[cell])
        if pairs is None:
            return {}
        ablation, family = cell
        found[ablation][family] = _difference(pairs)
    return dict(found)


def _by_cell(predictions: Iterable[Prediction]) -> dict[tuple[str, str], list[Prediction]]:
    found: dict[tuple[str, str], list[Prediction]] = defaultdict(list)
    for item in predictions:
        found[item.ablation, item.family].append(item)
    return found


def _pairs(first: Iterable[Prediction], second: Iterable[Prediction]) -> list[_Pair] | None:
    """Return the answers of both models to each question; None if their questions differ."""
    one, other = _by_question(first), _by_question(second)
    return [(one[key], other[key]) for key in sorted(one)] if one.keys() == other.keys() else None


def _by_question(predictions: Iterable[Prediction]) -> dict[tuple[str, str, str, str], Prediction]:
    return {(item.id, item.kind, item.question, item.answer): item for item in predictions}


def _required_pairs(first: list[Prediction], second: list[Prediction], ablation: str) -> list[_Pair]:
    pairs = _pairs(first, second)
    if pairs:
        return pairs
    odd = sorted({item.id for item in first} ^ {item.id for item in second})
    found = f"only one model answered sample {odd[0]}" if odd else "the questions of a sample differ"
    raise EvaluationError(
        f"cannot compare {len(first)} answers under {ablation} with {len(second)} about other questions: "
        f"{found if first or second else 'there are none'}; evaluate both models again"
    )


def _cells(
    pairs: Sequence[_Pair], names: Iterable[str], name_of: Callable[[Prediction], str]
) -> dict[str, PairedCell]:
    return {name: _cell([pair for pair in pairs if name_of(pair[0]) == name]) for name in names}


def _cell(pairs: Sequence[_Pair]) -> PairedCell:
    first, second = [one.correct for one, _ in pairs], [other.correct for _, other in pairs]
    clusters = [cluster_of(one) for one, _ in pairs]
    return PairedCell(
        first=sum(first) / len(pairs),
        second=sum(second) / len(pairs),
        difference=_difference(pairs),
        p=paired_permutation_test(first, second, clusters),
        only_first=sum(one and not other for one, other in zip(first, second, strict=True)),
        only_second=sum(other and not one for one, other in zip(first, second, strict=True)),
        n=len(pairs),
        clips=len(set(clusters)),
        unparsed=(sum(one.parsed is None for one, _ in pairs), sum(two.parsed is None for _, two in pairs)),
    )


def _difference(pairs: Sequence[_Pair]) -> Interval:
    return paired_bootstrap(
        [one.correct for one, _ in pairs],
        [other.correct for _, other in pairs],
        [cluster_of(one) for one, _ in pairs],
        draws=_DRAWS,
        seed=_SEED,
    )


def _short(value: TaskNote | EvaluatedDataset | None) -> str:
    if isinstance(value, TaskNote):
        return f"{value.name} {value.version}"
    if value is None:
        return "not recorded"
    return " ".join(filter(None, (value.name, value.commit[:20], value.split)))
