"""From predictions to the numbers of `evaluation.json`."""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from llava_av.evaluation.ablations import ABLATIONS, AUDIO_VISUAL
from llava_av.evaluation.answers import EvaluationError, Prediction
from llava_av.evaluation.statistics import clustered_wilson_interval, paired_bootstrap

__all__ = ["FAMILIES", "JOINT", "cluster_of", "evaluate_predictions"]

JOINT = "joint"
FAMILIES = ("visual", "audio", JOINT)
"""From one modality to both: the order of every table."""

_Key = tuple[str, str, str, str]
_Cells = dict[str, dict[str, list[Prediction]]]


def evaluate_predictions(predictions: Iterable[Prediction], *, draws: int, seed: int) -> dict[str, Any]:
    """Accuracy, loss and paired differences of the same questions asked under every ablation.

    An unparsed reply is wrong, and counted apart as well. Every interval takes the questions about a clip
    together. The chance of a family is the mean of
    1 / (number of choices) over its questions, which weights its kinds by n.

    Args:
        predictions: every question once under each ablation that was run, in any order.
        draws: resamples behind each paired interval.
        seed: seed of the resamples.

    Returns:
        `{"accuracy": {ablation: {family: {value, low, high, chance, n, unparsed}}},
        "kinds": {ablation: {kind: {value, low, high, chance, n, unparsed, loss}}},
        "loss": {ablation: {family: nats a token}},
        "modalities": {modalities of the samples: {value, low, high, chance, n, unparsed, loss}} with
        everything that they hold, empty where it was not noted,
        "differences": {ablation other than av: {family: {value, low, high}}}}`.

    Raises:
        EvaluationError: no prediction, an unknown ablation, or ablations that saw different questions.
    """
    cells = _cells(predictions)
    _require_same_questions(cells)
    return {
        "accuracy": {
            ablation: {family: _accuracy(cell) for family, cell in families.items()}
            for ablation, families in cells.items()
        },
        "kinds": {
            ablation: {kind: _kind(cell) for kind, cell in _by_kind(families).items()}
            for ablation, families in cells.items()
        },
        "loss": {
            ablation: {family: _mean_loss(cell) for family, cell in families.items()}
            for ablation, families in cells.items()
        },
        "modalities": _by_modalities(cells),
        "differences": _differences(cells, draws=draws, seed=seed),
    }


def _cells(predictions: Iterable[Prediction]) -> _Cells:
    """The predictions by ablation and family, both in the order of reports, each cell in canonical order."""
    by_ablation: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        by_ablation.setdefault(prediction.ablation, []).append(prediction)
    if not by_ablation:
        raise EvaluationError("there is no prediction to evaluate; is the held-out split empty?")
    known = [ablation.name for ablation in ABLATIONS]
    unknown = sorted(set(by_ablation) - set(known))
    if unknown:
        raise EvaluationError(f"ablation {unknown[0]!r} is not one of: {', '.join(known)}")
    return {name: _families(by_ablation[name]) for name in known if name in by_ablation}


def _families(predictions: list[Prediction]) -> dict[str, list[Prediction]]:
    names = sorted({prediction.family for prediction in predictions}, key=_family_rank)
    ordered = sorted(predictions, key=_key)
    return {name: [item for item in ordered if item.family == name] for name in names}


def _family_rank(name: str) -> tuple[int, str]:
    return (FAMILIES.index(name) if name in FAMILIES else len(FAMILIES), name)


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
                f"{first} answered {asked[first].total()} questions and {other} "
                f"{asked[other].total()}, not the same ones: sample {only[0]} is in one alone; "
                "run the evaluation again"
            )


def _accuracy(cell: Sequence[Prediction]) -> dict[str, Any]:
    interval = clustered_wilson_interval([item.correct for item in cell], [cluster_of(item) for item in cell])
    return {
        **interval.model_dump(),
        "chance": _chance(cell),
        "n": len(cell),
        "unparsed": sum(item.parsed is None for item in cell),
    }


def _chance(cell: Sequence[Prediction]) -> float | None:
    if not all(item.choices for item in cell):
        return None
    # by number of choices: a plain sum of many 1/3 would end a hair away from 1/3
    sizes = Counter(len(item.choices) for item in cell)
    if len(sizes) == 1:
        return 1 / next(iter(sizes))
    return sum(count / size for size, count in sorted(sizes.items())) / len(cell)


def _by_kind(families: dict[str, list[Prediction]]) -> dict[str, list[Prediction]]:
    """The predictions by kind, the kinds of a family together."""
    kinds: dict[str, list[Prediction]] = {}
    for cell in families.values():
        for kind in sorted({item.kind for item in cell}):
            kinds[kind] = [item for item in cell if item.kind == kind]
    return kinds


def _kind(cell: Sequence[Prediction]) -> dict[str, Any]:
    return {**_accuracy(cell), "loss": _mean_loss(cell)}


def _mean_loss(cell: Sequence[Prediction]) -> float:
    return sum(item.loss for item in cell) / len(cell)


def _by_modalities(cells: _Cells) -> dict[str, dict[str, Any]]:
    everything = [item for cell in cells.get(AUDIO_VISUAL.name, {}).values() for item in cell]
    names = sorted({item.modalities for item in everything if item.modalities})
    return {name: _kind([item for item in everything if item.modalities == name]) for name in names}


def _differences(cells: _Cells, *, draws: int, seed: int) -> dict[str, dict[str, dict[str, float]]]:
    whole = cells.get(AUDIO_VISUAL.name, {})
    return {
        name: {
            family: paired_bootstrap(
                [item.correct for item in whole[family]],
                [item.correct for item in cell],
                [cluster_of(item) for item in cell],
                draws=draws,
                seed=seed,
            ).model_dump()
            for family, cell in families.items()
        }
        for name, families in cells.items()
        if name != AUDIO_VISUAL.name and whole
    }


def cluster_of(prediction: Prediction) -> Hashable:
    """What is drawn whole: the clip, or the sample where there is none."""
    return ("sample", prediction.id) if prediction.clip is None else ("clip", prediction.clip)
