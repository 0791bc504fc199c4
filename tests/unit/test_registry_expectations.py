"""Expectations: bounds on any number of an evaluation, and sentences about them."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from llava_av.evaluation.aggregation import evaluate_predictions
from llava_av.registry.expectations import Expectation
from llava_av.runs import Prediction
from llava_av.vocabulary import Ablation
from tests.artifacts import evaluated
from tests.gate_samples import cell, evaluation, numbers


@given(value=st.floats(0, 1), bound=st.floats(0, 1))
def test_a_bound_is_met_exactly_when_it_is(value: float, bound: float) -> None:
    seen = evaluation(av=value)
    assert Expectation(metric="accuracy.av.joint", at_least=bound).check(seen).met == (value >= bound)
    assert Expectation(metric="accuracy.av.joint.value", at_most=bound).check(seen).met == (value <= bound)


@given(value=st.floats(0, 1), bound=st.floats(0, 1))
def test_a_sentence_never_shows_a_missed_bound_as_reached(value: float, bound: float) -> None:
    check = Expectation(metric="accuracy.av.joint", at_least=bound).check(evaluation(av=value))
    shown, expected = (float(part.split()[-1]) for part in check.sentence.split(", expected"))
    if abs(value - bound) > 1e-8:
        assert (shown >= expected) == check.met


@pytest.mark.parametrize(
    ("metric", "seen", "low"),
    [
        ("accuracy.av.joint", 0.97, 0.92),
        ("accuracy.av.joint.low", 0.92, None),
        ("accuracy.av.joint.n", 160, None),
        ("accuracy.av.joint.unparsed", 2, None),
        ("loss.text_only.joint", 0.2, None),
        ("differences.video_only.joint", 0.6, 0.5),
        ("differences.video_only.joint.high", 0.7, None),
    ],
)
def test_metrics_name_any_number_of_an_evaluation(metric: str, seen: float, low: float | None) -> None:
    check = Expectation(metric=metric, at_least=0).check(evaluation())
    assert check.seen == pytest.approx(seen)
    assert check.low == (None if low is None else pytest.approx(low))
    assert check.met


def test_counts_are_shown_as_counts() -> None:
    check = Expectation(metric="accuracy.av.joint.n", at_least=200).check(evaluation())
    assert check.sentence == "accuracy.av.joint.n is 160, expected at least 200"
    assert check.statement == "accuracy.av.joint.n at least 200"


def test_chance_of_questions_without_choices_cannot_be_checked() -> None:
    seen = evaluated({"accuracy": {"av": {"all": cell(0.4, chance=None)}}})
    check = Expectation(metric="accuracy.av.all", at_least="chance").check(seen)
    assert (check.met, check.expected) == (None, None)
    assert "has no chance level" in check.sentence


def test_a_diverged_loss_is_not_as_expected() -> None:
    diverged = numbers()
    diverged["loss"]["av"]["joint"] = math.nan
    seen = evaluated(diverged)
    assert Expectation(metric="loss.av.joint", at_most=1.0).check(seen).met is False
    assert Expectation(metric="loss.av.joint", at_least=1.0).check(seen).met is False


@pytest.mark.parametrize(
    "fields",
    [
        {"metric": "accuracy.av.joint"},
        {"metric": "accuracy.av.joint", "at_least": 0.9, "at_most": 1.0},
        {"metric": "accuracy.av", "at_least": 0.9},
        {"metric": "accuracy.deaf.joint", "at_least": 0.9},
        {"metric": "accuracy.av.joint.median", "at_least": 0.9},
        {"metric": "accuracy.av.joint.low.low", "at_least": 0.9},
        {"metric": "accuracy.av.", "at_least": 0.9},
        {"metric": "loss.av.joint.low", "at_most": 0.9},
        {"metric": "accuracy.av.joint", "task": "held-out", "at_least": 0.9},
        {"metric": "differences.av.joint", "at_least": 0.9},
        {"metric": "accuracy.av.joint", "at_least": "luck"},
        {"metric": "accuracy.av.joint", "at_least": math.nan},
        {"metric": "loss.av.joint", "at_most": "chance"},
        {"metric": "accuracy.av.joint", "at_least": 0.9, "weight": 2},
        {"metric": "accuracy.av.joint", "at_least": 0.9, "above": 0.9},
        {"metric": "accuracy.av.joint", "over": "sibling", "at_least": 0.0},
        {"metric": "accuracy.av.joint", "over": "parent", "at_least": "chance"},
        {"metric": "accuracy.av.joint.n", "over": "parent", "at_least": 0.0},
        {"metric": "differences.text_only.joint", "over": "champion", "at_least": 0.0},
        {"metric": "accuracy.av.joint", "task": "Daily Omni", "at_least": 0.0},
    ],
)
def test_what_cannot_be_checked_is_no_expectation(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Expectation.model_validate(fields)


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("acuracy.av.joint", "'acuracy' is not one of accuracy, loss, differences"),
        ("accuracy.vidio_only.joint", "the ablation 'vidio_only' is not one of av, video_only, audio_only"),
        ("differences.av.joint", "the ablation 'av' is not one of video_only, audio_only"),
        (
            "accuracy.av.jiont",
            "the family 'jiont' is not one of visual, audio, joint, all; did you mean joint?",
        ),
        ("loss.av.visaul", "the family 'visaul' is not one of .* did you mean visual?"),
        ("accuracy.av.joint.lo", "accuracy has no part 'lo', only value, low, high, n, unparsed"),
        ("loss.av.joint.low", "loss has no part 'low', only its value"),
    ],
)
def test_an_unknown_name_is_refused_beside_those_that_there_are(metric: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Expectation(metric=metric, at_least=0)


def test_every_number_that_an_evaluation_writes_can_be_expected() -> None:
    answers = [
        Prediction(
            id=kind, ablation=ablation, kind=kind, question="?", choices=("a", "b"), answer="a",
            reply="a", parsed="a", correct=True, loss=1.0,
        )
        for ablation in Ablation
        for kind in ("visual_colour", "audio_tone", "joint_both", "all", "spatial_side")
    ]  # fmt: skip
    scores = evaluate_predictions(answers, draws=200, seed=0)
    written = evaluated(scores.model_dump())
    names = [
        f"{number}.{ablation}.{family}{f'.{part}' if part else ''}"
        for number in ("accuracy", "loss", "differences")
        for ablation, families in scores.model_dump()[number].items()
        for family, cell in families.items()
        for part in ("", *(cell if isinstance(cell, dict) else ()))
        if part != "chance"
    ]
    assert len(names) > 200
    for name in names:
        assert Expectation(metric=name, at_least=-1).check(written).met, name


def test_expectations_know_every_ablation() -> None:
    for ablation in Ablation:
        assert Expectation(metric=f"accuracy.{ablation}.joint", at_least=0).check(evaluation()).met


@pytest.mark.parametrize(
    ("bound", "met"), [({"above": 0.97}, False), ({"at_least": 0.97}, True), ({"below": 0.97}, False)]
)
def test_strict_bounds_leave_the_bound_out(bound: dict[str, float], met: bool) -> None:
    assert Expectation(metric="accuracy.av.joint", **bound).check(evaluation()).met is met
