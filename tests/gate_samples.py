"""Evaluations for gates and expectations, with chosen accuracies and differences."""

from typing import Any

from llava_av.registry.baselines import Baseline
from llava_av.runs import EvaluationResult, Interval
from tests.artifacts import evaluated


def cell(value: float, *, n: int = 160, chance: float | None = 0.375) -> dict[str, Any]:
    return {
        "value": value,
        "low": value - 0.05,
        "high": value + 0.04,
        "chance": chance,
        "n": n,
        "unparsed": 2,
    }


def numbers(**changed: float) -> dict[str, Any]:
    """Return an evaluation that passes, except for the given accuracies and lower ends of differences."""
    values = {"av": 0.97, "video_only": 0.38, "audio_only": 0.37, "text_only": 0.375, "shuffled_audio": 0.4}
    others = [name for name in values if name != "av"]
    return {
        "accuracy": {name: {"joint": cell(changed.get(name, value))} for name, value in values.items()},
        "loss": {name: {"joint": 0.2} for name in values},
        "differences": {
            name: {"joint": {"value": 0.6, "low": changed.get(f"low_{name}", 0.5), "high": 0.7}}
            for name in others
        },
    }


def evaluation(**changed: float) -> EvaluationResult:
    return evaluated(numbers(**changed))


def champion(av: float, **paired: float) -> Baseline:
    """Return a champion with this accuracy; `paired` is the difference on the same questions."""
    found = {"av": {"joint": Interval.model_validate(paired)}} if paired else {}
    return Baseline(label="version 3", evaluation=evaluation(av=av), paired=found)
