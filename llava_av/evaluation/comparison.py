"""Two models on the same questions: the paired difference with its interval and its test, also by kind."""

from collections.abc import Iterable, Sequence
from typing import Any

from llava_av.evaluation.ablations import AUDIO_VISUAL
from llava_av.evaluation.answers import EvaluationError, Prediction
from llava_av.evaluation.statistics import holm_adjusted, paired_bootstrap, paired_permutation_test
from llava_av.evaluation.summary import cluster_of

__all__ = ["compare_predictions", "require_same_task"]

_Pair = tuple[Prediction, Prediction]


def require_same_task(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Refuses two evaluation.json that did not ask the same.

    Raises:
        EvaluationError: another task, version of it, or data; names both sides.
    """
    for name in ("task", "dataset"):
        one, other = first.get(name), second.get(name)
        if one is None or one != other:
            raise EvaluationError(
                f"the two were asked different things: {name} {_short(one)} against {_short(other)}; "
                "evaluate both on the same task and data"
            )


def compare_predictions(
    first: Iterable[Prediction],
    second: Iterable[Prediction],
    *,
    draws: int,
    seed: int,
    ablation: str = AUDIO_VISUAL.name,
) -> dict[str, Any]:
    """How much more often the first model is right than the second.

    Args:
        first: answers of one model.
        second: answers of the other to the same questions.
        draws: resamples behind each interval.
        seed: seed of the resamples.
        ablation: under which both were asked.

    Returns:
        `{"ablation", "all": cell, "kinds": {kind: cell}}`, each cell `{first, second, difference: {value,
        low, high}, p, only_first, only_second, n, clips, unparsed: [first, second]}`; the p of kinds is
        adjusted for their number.

    Raises:
        EvaluationError: they did not answer the same questions, or none under the ablation.
    """
    pairs = _pairs(first, second, ablation)
    kinds = {kind: [pair for pair in pairs if pair[0].kind == kind] for kind in _kinds(pairs)}
    cells = {kind: _cell(own, draws=draws, seed=seed) for kind, own in kinds.items()}
    adjusted = holm_adjusted([cell["p"] for cell in cells.values()])
    return {
        "ablation": ablation,
        "all": _cell(pairs, draws=draws, seed=seed),
        "kinds": {kind: {**cell, "p": p} for (kind, cell), p in zip(cells.items(), adjusted, strict=True)},
    }


def _pairs(first: Iterable[Prediction], second: Iterable[Prediction], ablation: str) -> list[_Pair]:
    one = {item.id: item for item in first if item.ablation == ablation}
    other = {item.id: item for item in second if item.ablation == ablation}
    if one.keys() != other.keys() or not one:
        odd = next(iter(sorted(one.keys() ^ other.keys())), "none at all")
        raise EvaluationError(
            f"{len(one)} against {len(other)} answers under {ablation}, not to the same questions: "
            f"{odd} is in one alone; evaluate both again"
        )
    return [(one[name], other[name]) for name in sorted(one)]


def _kinds(pairs: Sequence[_Pair]) -> list[str]:
    return sorted({one.kind for one, _ in pairs})


def _cell(pairs: Sequence[_Pair], *, draws: int, seed: int) -> dict[str, Any]:
    first, second = [one.correct for one, _ in pairs], [other.correct for _, other in pairs]
    clusters = [cluster_of(one) for one, _ in pairs]
    return {
        "first": sum(first) / len(pairs),
        "second": sum(second) / len(pairs),
        "difference": paired_bootstrap(first, second, clusters, draws=draws, seed=seed).model_dump(),
        "p": paired_permutation_test(first, second, clusters),
        "only_first": sum(one and not other for one, other in zip(first, second, strict=True)),
        "only_second": sum(other and not one for one, other in zip(first, second, strict=True)),
        "n": len(pairs),
        "clips": len(set(clusters)),
        "unparsed": [sum(pair[side].parsed is None for pair in pairs) for side in (0, 1)],
    }


def _short(value: Any) -> str:
    if not isinstance(value, dict):
        return "not noted"
    return " ".join(str(value[key])[:20] for key in ("name", "version", "commit", "split") if key in value)
