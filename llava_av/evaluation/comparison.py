"""Paired comparison of two models on the same questions, overall and by kind of question."""

from collections.abc import Iterable, Sequence

from llava_av.evaluation.aggregation import cluster_of
from llava_av.evaluation.scoring import EvaluationError
from llava_av.evaluation.statistics import holm_adjusted, paired_bootstrap, paired_permutation_test
from llava_av.runs import (
    EvaluatedDataset,
    EvaluationResult,
    PairedCell,
    PairedComparison,
    Prediction,
    TaskNote,
)
from llava_av.vocabulary import Ablation

__all__ = ["compare_predictions", "require_same_task"]

_Pair = tuple[Prediction, Prediction]


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
    first: Iterable[Prediction],
    second: Iterable[Prediction],
    *,
    draws: int,
    seed: int,
    ablation: str = Ablation.AUDIO_VISUAL,
) -> PairedComparison:
    """Compute the difference in accuracy between the first model and the second.

    Args:
        first: Answers of the first model.
        second: Answers of the second model to the same questions.
        draws: Resamples behind each interval.
        seed: Seed of the resamples.
        ablation: Ablation under which both were asked.

    Raises:
        EvaluationError: The models answered different questions, or none under the ablation.
    """
    pairs = _pairs(first, second, ablation)
    kinds = {kind: [pair for pair in pairs if pair[0].kind == kind] for kind in _kinds(pairs)}
    cells = {kind: _cell(own, draws=draws, seed=seed) for kind, own in kinds.items()}
    adjusted = holm_adjusted([cell.p for cell in cells.values()])
    return PairedComparison(
        ablation=ablation,
        all=_cell(pairs, draws=draws, seed=seed),
        kinds={
            kind: cell.model_copy(update={"p": p})
            for (kind, cell), p in zip(cells.items(), adjusted, strict=True)
        },
    )


def _pairs(first: Iterable[Prediction], second: Iterable[Prediction], ablation: str) -> list[_Pair]:
    one = {item.id: item for item in first if item.ablation == ablation}
    other = {item.id: item for item in second if item.ablation == ablation}
    if one.keys() != other.keys() or not one:
        odd = next(iter(sorted(one.keys() ^ other.keys())), None)
        found = "there are none" if odd is None else f"only one model answered sample {odd}"
        raise EvaluationError(
            f"cannot compare {len(one)} answers under {ablation} with {len(other)} about other questions: "
            f"{found}; evaluate both models again"
        )
    return [(one[name], other[name]) for name in sorted(one)]


def _kinds(pairs: Sequence[_Pair]) -> list[str]:
    return sorted({one.kind for one, _ in pairs})


def _cell(pairs: Sequence[_Pair], *, draws: int, seed: int) -> PairedCell:
    first, second = [one.correct for one, _ in pairs], [other.correct for _, other in pairs]
    clusters = [cluster_of(one) for one, _ in pairs]
    return PairedCell(
        first=sum(first) / len(pairs),
        second=sum(second) / len(pairs),
        difference=paired_bootstrap(first, second, clusters, draws=draws, seed=seed),
        p=paired_permutation_test(first, second, clusters),
        only_first=sum(one and not other for one, other in zip(first, second, strict=True)),
        only_second=sum(other and not one for one, other in zip(first, second, strict=True)),
        n=len(pairs),
        clips=len(set(clusters)),
        unparsed=(sum(one.parsed is None for one, _ in pairs), sum(two.parsed is None for _, two in pairs)),
    )


def _short(value: TaskNote | EvaluatedDataset | None) -> str:
    if isinstance(value, TaskNote):
        return f"{value.name} {value.version}"
    if value is None:
        return "not recorded"
    return " ".join(filter(None, (value.name, value.commit[:20], value.split)))
