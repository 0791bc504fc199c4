"""Benchmark on a GPU: its settings, its division of time and its report."""

from dataclasses import fields

import pytest

from benchmarks.gpu import Budget, report_of
from benchmarks.gpu_models import SHAPES
from llava_av.recipe import load_recipe


def run(*, seconds: float = 2.0, tokens: int = 1_000, flops: float = 1e12) -> dict[str, object]:
    """Return a run as the benchmark writes it."""
    return {
        "seconds": seconds,
        "wait_s": 0.1 * seconds,
        "samples": 4,
        "tokens": tokens,
        "positions": 2 * tokens,
        "flops": flops,
        "needed_flops": 2 * flops,
        "peak_gib": 12.0,
    }


@pytest.mark.parametrize("name", SHAPES)
def test_settings_are_those_of_the_recipe(name: str) -> None:
    shape = SHAPES[name]
    recipe = load_recipe(shape.recipe)
    # One row in each micro-batch, and plain PyTorch in one process.
    other = {"micro_batch_tokens", "engine"}
    for section in ("optimizer", "training"):
        own, theirs = getattr(shape, section), getattr(recipe, section)
        names = {field.name for field in fields(own)} - other - {"parts"}
        assert {one: getattr(own, one) for one in names} == {one: getattr(theirs, one) for one in names}
    assert shape.model.trainable_parts == recipe.model.trainable_parts
    assert (shape.model.adapter is None) == (recipe.model.adapter is None)
    if shape.model.adapter is not None and recipe.model.adapter is not None:
        assert vars(shape.model.adapter) == recipe.model.adapter.model_dump()
    for part in shape.model.trainable_parts:
        settings = shape.optimizer.of_part(part)
        assert vars(settings) == recipe.optimizer.of_part(part).model_dump()


def test_the_report_has_rates_utilisation_and_goals() -> None:
    ways = [
        {"way": "llava-av", "runs": [run(), run(seconds=1.0), run(seconds=4.0)], "notes": []},
        {"way": "Trainer", "runs": [run(seconds=4.0)], "notes": ["out of memory, then one sample"]},
    ]
    part = {"device": "NVIDIA H100", "attention": "flex_attention", "peak_flops": 2e12, "ways": ways}
    tests = {"passed": 3, "failed": 1, "skipped": 0, "seconds": 2.5, "error": "exit status 1"}
    report = report_of({"tests": tests, "models": {"7B": part, "0.5B": {"error": "exit status 9"}}})
    lines = report.splitlines()
    assert "3 passed, 1 failed, 0 skipped" in lines[0]
    # Medians: 1,000 tokens in 2 s; 10¹² FLOPs in 2 s at a peak of 2 · 10¹².
    assert "| llava-av | 500 (250 to 1,000) | 25.0% | 50.0% | 10.0% | 50.0% | 12.0 GiB |  |" in lines
    assert "| Trainer | 250 | 12.5% | 25.0% | 10.0% | 50.0% | 12.0 GiB | 2.00 |" in lines
    assert any("out of memory" in line for line in lines)
    goals = [line for line in lines if line.startswith("Goals")]
    assert "50.0% MFU (reached), 2.00 times the Trainer (reached)" in goals[0]
    assert "not measured" in goals[1]
    assert "exit status 9" in report


def test_missed_goals_are_named() -> None:
    ways = [{"way": name, "runs": [run(flops=1e11)], "notes": []} for name in ("llava-av", "Trainer")]
    report = report_of(
        {
            "tests": {"seconds": 0.1, "error": None},
            "models": {"7B": {"peak_flops": 1e12, "ways": ways, "attention": "sdpa"}},
        }
    )
    assert "10.0% MFU (missed), 1.00 times the Trainer (missed)" in report


def test_time_that_a_part_does_not_use_goes_to_the_later_ones() -> None:
    budget = Budget(110.0, [0.25, 0.25, 0.5])
    assert budget.next() == pytest.approx(25, abs=1)
    assert budget.next() == pytest.approx(100 / 3, abs=1)
    assert budget.next() == pytest.approx(100, abs=1)
