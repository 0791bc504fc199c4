"""Aggregation of predictions into the numbers of evaluation.json."""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

from llava_av.evaluation.scoring import EvaluationError
from llava_av.evaluation.statistics import clustered_wilson_interval, paired_bootstrap
from llava_av.runs import Accuracy, Interval, KindAccuracy, Prediction, Scores
from llava_av.vocabulary import Ablation, QuestionFamily, in_order

__all__ = ["cluster_of", "evaluate_predictions"]

_Key = tuple[str, str, str, str]
_Cells = dict[str, dict[str, list[Prediction]]]


def evaluate_predictions(predictions: Iterable[Prediction], *, draws: int, seed: int) -> Scores:
    """Compute accuracy, loss and paired differences of the same questions under every ablation.

    An unparsed reply counts as wrong and as unparsed. Every interval treats the questions about a clip as one
    cluster. The chance level of a family is the mean of 1 / (number of choices) over its questions, so its
    kinds are weighted by their number of questions.

    Args:
        predictions: One prediction for each question and ablation, in any order.
        draws: Resamples behind each paired interval.
        seed: Seed of the resamples.

    Raises:
        EvaluationError: There is no prediction, an ablation is unknown, or ablations differ in questions.
    """
    cells = _cells(predictions)
    _require_same_questions(cells)
    return Scores(
        accuracy={
            ablation: {family: _accuracy(cell) for family, cell in families.items()}
            for ablation, families in cells.items()
        },
        kinds={
            ablation: {kind: _kind(cell) for kind, cell in _by_kind(families).items()}
            for ablation, families in cells.items()
        },
        loss={
            ablation: {family: _mean_loss(cell) for family, cell in families.items()}
            for ablation, families in cells.items()
        },
        modalities=_by_modalities(cells),
        differences=_differences(cells, draws=draws, seed=seed),
    )


def _cells(predictions: Iterable[Prediction]) -> _Cells:
    """Return predictions by ablation and family in the order of reports, each cell in canonical order."""
    by_ablation: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        by_ablation.setdefault(prediction.ablation, []).append(prediction)
    if not by_ablation:
        raise EvaluationError(
            "cannot evaluate: there is no prediction; check that the held-out split has samples"
        )
    unknown = sorted(set(by_ablation) - set(Ablation))
    if unknown:
        raise EvaluationError(f"unknown ablation {unknown[0]!r}: expected one of {', '.join(Ablation)}")
    return {name: _families(by_ablation[name]) for name in in_order(by_ablation, Ablation)}


def _families(predictions: list[Prediction]) -> dict[str, list[Prediction]]:
    names = in_order((prediction.family for prediction in predictions), QuestionFamily)
    ordered = sorted(predictions, key=_key)
    return {name: [item for item in ordered if item.family == name] for name in names}


def _key(prediction: Prediction) -> _Key:
    return (prediction.id, prediction.kind, prediction.question, prediction.answer)


def _require_same_questions(cells: _Cells) -> None:
    asked = {
        ablation: Counter(_key(item) for cell in families.values() for item in cell)
        for ablation, families in cells.items()
    }
    first, *others = asked
    for other in others:
        if asked[other] != asked[first]:
            only = next(iter((asked[first] - asked[other]) + (asked[other] - asked[first])))
            raise EvaluationError(
                f"ablations must have the same questions, but {first} has {asked[first].total()} answers and "
                f"{other} has {asked[other].total()}; only one of them has sample {only[0]}: evaluate again"
            )


def _accuracy(cell: Sequence[Prediction]) -> Accuracy:
    interval = clustered_wilson_interval([item.correct for item in cell], [cluster_of(item) for item in cell])
    return Accuracy(
        value=interval.value,
        low=interval.low,
        high=interval.high,
        chance=_chance(cell),
        n=len(cell),
        unparsed=sum(item.parsed is None for item in cell),
    )


def _chance(cell: Sequence[Prediction]) -> float | None:
    if not all(item.choices for item in cell):
        return None
    # A sum of many 1/3 would not be exactly 1/3, so questions are grouped by their number of choices.
    sizes = Counter(len(item.choices) for item in cell)
    if len(sizes) == 1:
        return 1 / next(iter(sizes))
    return sum(count / size for size, count in sorted(sizes.items())) / len(cell)


def _by_kind(families: dict[str, list[Prediction]]) -> dict[str, list[Prediction]]:
    """Return the predictions by kind, with the kinds of a family together."""
    kinds: dict[str, list[Prediction]] = {}
    for cell in families.values():
        for kind in sorted({item.kind for item in cell}):
            kinds[kind] = [item for item in cell if item.kind == kind]
    return kinds


def _kind(cell: Sequence[Prediction]) -> KindAccuracy:
    return KindAccuracy(**dict(_accuracy(cell)), loss=_mean_loss(cell))


def _mean_loss(cell: Sequence[Prediction]) -> float:
    return sum(item.loss for item in cell) / len(cell)


def _by_modalities(cells: _Cells) -> dict[str, KindAccuracy]:
    everything = [item for cell in cells.get(Ablation.AUDIO_VISUAL, {}).values() for item in cell]
    names = sorted({item.modalities for item in everything if item.modalities})
    return {name: _kind([item for item in everything if item.modalities == name]) for name in names}


def _differences(cells: _Cells, *, draws: int, seed: int) -> dict[str, dict[str, Interval]]:
    whole = cells.get(Ablation.AUDIO_VISUAL, {})
    return {
        name: {
            family: paired_bootstrap(
                [item.correct for item in whole[family]],
                [item.correct for item in cell],
                [cluster_of(item) for item in cell],
                draws=draws,
                seed=seed,
            )
            for family, cell in families.items()
        }
        for name, families in cells.items()
        if name != Ablation.AUDIO_VISUAL and whole
    }


def cluster_of(prediction: Prediction) -> Hashable:
    """Return the unit of resampling: the clip, or the sample if it has none."""
    return ("sample", prediction.id) if prediction.clip is None else ("clip", prediction.clip)
