import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from llava_av.evaluation.aggregation import evaluate_predictions
from llava_av.registry.baselines import Baseline, unpaired_difference
from llava_av.registry.expectations import Expectation
from llava_av.registry.gate import GateError, evaluate_gate, gate_folder, load_gate
from llava_av.runs import EvaluationResult, GateDecision, Interval, Prediction
from llava_av.vocabulary import Ablation
from tests.artifacts import evaluated

CHALLENGER, CHAMPION = load_gate("challenger"), load_gate("champion")
EXPECTED = (
    Expectation(metric="accuracy.av.joint", at_least=0.9),
    Expectation(metric="accuracy.video_only.joint.low", at_most="chance"),
)


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


def test_a_model_that_uses_both_streams_passes() -> None:
    result = evaluate_gate(evaluation(), EXPECTED, CHALLENGER)
    assert (result.passed, result.reasons) == (True, ())
    assert [check.met for check in result.expected] == [True, True]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"av": 0.71}, "accuracy.av.joint is 0.71, expected at least 0.90"),
        ({"av": 0.896}, "accuracy.av.joint is 0.896, expected at least 0.900"),
        ({"av": 0.89996}, "accuracy.av.joint is 0.89996, expected at least 0.90000"),
        (
            {"video_only": 0.5},
            "accuracy.video_only.joint.low is 0.45, expected at most chance (0.38)",
        ),
        (
            {"low_audio_only": -0.02},
            "differences.audio_only.joint.low is -0.02, expected above 0.00",
        ),
    ],
)
def test_a_failure_says_which_number_fell_short(changed: dict[str, float], reason: str) -> None:
    result = evaluate_gate(evaluation(**changed), EXPECTED, CHALLENGER)
    assert result.passed is False
    assert result.reasons == (reason,)


@pytest.mark.parametrize("ablation", ["video_only", "audio_only", "text_only"])
@pytest.mark.parametrize("low", [0.0, -0.1])
def test_an_interval_that_holds_zero_fails_for_each_ablation(ablation: str, low: float) -> None:
    result = evaluate_gate(evaluation(**{f"low_{ablation}": low}), EXPECTED, CHALLENGER)
    assert result.passed is False
    assert len(result.reasons) == 1
    assert ablation in result.reasons[0]


def test_every_reason_is_given() -> None:
    result = evaluate_gate(evaluation(av=0.5, low_video_only=-0.1, low_text_only=0.0), EXPECTED, CHALLENGER)
    assert len(result.reasons) == 3


def test_an_ablation_that_was_not_run_fails() -> None:
    without = numbers()
    del without["differences"]["text_only"]
    result = evaluate_gate(evaluated(without), EXPECTED, CHALLENGER)
    assert result.passed is False
    assert result.reasons == (
        "differences.text_only.joint.low is not in the evaluation (no ablation text_only, only video_only, "
        "audio_only, shuffled_audio), expected above 0.00",
    )


def test_an_expectation_that_cannot_be_checked_fails() -> None:
    result = evaluate_gate(evaluation(), [Expectation(metric="accuracy.av.audio", at_least=0.5)], CHALLENGER)
    assert result.passed is False
    assert result.reasons == (
        "accuracy.av.audio is not in the evaluation (no family audio, only joint), expected at least 0.50",
    )
    assert result.expected[0].met is None
    assert result.expected[0].outcome == (
        "accuracy.av.audio at least 0.50: not measured (no family audio, only joint)"
    )


@pytest.mark.parametrize(
    ("task", "lacks"),
    [("avqa", "no task avqa, only daily-omni"), ("daily-omni", "no family audio, only joint")],
)
def test_a_task_that_was_not_asked_is_named(task: str, lacks: str) -> None:
    asked = evaluation().model_copy(update={"tasks": {"daily-omni": evaluation()}})
    expectation = Expectation(metric="accuracy.av.audio", task=task, at_least=0.5)
    (reason,) = evaluate_gate(asked, [expectation], CHALLENGER).reasons
    assert f"({lacks})" in reason
    (reason,) = evaluate_gate(evaluation(), [expectation], CHALLENGER).reasons
    assert f"(no task {task})" in reason


def test_a_users_own_dataset_is_not_gated() -> None:
    own = {"accuracy": {"av": {"all": cell(0.4, chance=None)}}, "differences": {}}
    result = evaluate_gate(evaluated(own), EXPECTED, CHALLENGER)
    assert result.passed is None
    assert result.reasons == ("the gate judges joint questions, and this dataset has only all questions",)
    assert [check.met for check in result.expected] == [None, None]


@pytest.mark.parametrize("broken", [{"accuracy": {}}, {"accuracy": {"video_only": {}}}])
def test_what_is_no_evaluation_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(GateError, match=r"no accuracy\.av"):
        evaluate_gate(evaluated(broken), EXPECTED, CHALLENGER)


def test_a_gate_that_was_not_run_says_why() -> None:
    assert GateDecision(passed=None, reasons=("--quick trains too little",)).to_json() == {
        "passed": None,
        "reasons": ["--quick trains too little"],
        "moved": [],
        "expected": [],
        "rules": [],
        "before": None,
        "override": False,
    }


def test_the_layout_of_gate_json() -> None:
    result = evaluate_gate(evaluation(av=0.5), EXPECTED, CHALLENGER)
    data = json.loads(json.dumps(result.model_copy(update={"moved": ("champion",)}).to_json()))
    assert list(data) == ["passed", "reasons", "moved", "expected", "rules", "before", "override"]
    assert data["moved"] == ["champion"]
    assert data["expected"][0]["seen"] == 0.5


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


def champion(av: float, **paired: float) -> Baseline:
    """Return a champion with this accuracy; `paired` is the difference on the same questions."""
    found = {"av": {"joint": Interval.model_validate(paired)}} if paired else {}
    return Baseline(label="version 3", evaluation=evaluation(av=av), paired=found)


def test_a_rule_over_the_champion_decides_by_the_lower_end_of_the_interval() -> None:
    worse = {"champion": champion(0.97, value=-0.01, low=-0.031, high=0.01)}
    result = evaluate_gate(evaluation(), EXPECTED, CHAMPION, worse)
    assert result.passed is False
    assert result.reasons == (
        "accuracy.av.joint.low over champion (version 3) [-0.031, 0.010] is -0.031, expected at least -0.030",
    )
    even = {"champion": champion(0.97, value=0.0, low=-0.029, high=0.02)}
    assert evaluate_gate(evaluation(), EXPECTED, CHAMPION, even).passed is True


def test_without_a_champion_nothing_is_compared_with_it() -> None:
    over = Expectation(metric="accuracy.av.joint", over="champion", at_least=0.5)
    result = evaluate_gate(evaluation(), (*EXPECTED, over), CHAMPION)
    assert result.passed is True
    assert len(result.rules) == 3
    assert result.expected[-1].met is None


def test_without_a_champion_a_number_that_is_not_there_is_not_passed_over() -> None:
    over = Expectation(metric="accuracy.av.audio", over="champion", at_least=-0.5)
    result = evaluate_gate(evaluation(), [over], CHALLENGER)
    assert result.passed is False
    assert "(no family audio, only joint)" in result.reasons[0]
    ruled = CHALLENGER.model_copy(update={"rules": (over,)})
    assert evaluate_gate(evaluation(), EXPECTED, ruled).passed is False


def test_a_parent_that_was_never_evaluated_is_a_reason() -> None:
    over = Expectation(metric="accuracy.av.joint", over="parent", at_least=0.0)
    result = evaluate_gate(evaluation(), [over], CHALLENGER)
    assert result.reasons == (
        "accuracy.av.joint over parent is not in the evaluation of this model and of its parent, "
        "expected at least 0.00",
    )


def test_a_difference_of_other_questions_comes_from_both_intervals() -> None:
    """Newcombe's example: 56 of 70 against 48 of 80, method 10 gives 0.0524 to 0.3339."""
    first = Interval(value=0.8, low=0.6920, high=0.8769)
    second = Interval(value=0.6, low=0.4904, high=0.7004)
    found = unpaired_difference(first, second)
    assert found.value == pytest.approx(0.2)
    assert found.low == pytest.approx(0.0524, abs=2e-4)
    assert found.high == pytest.approx(0.3339, abs=2e-4)
    check = Expectation(metric="accuracy.av.joint", over="champion", above=0.0).check(
        evaluation(), {"champion": champion(0.9)}
    )
    assert (check.seen, check.met) == (pytest.approx(0.07), True)
    assert check.low == pytest.approx(0.07 - math.hypot(0.05, 0.04))


def test_a_difference_of_losses_has_no_interval() -> None:
    over = Expectation(metric="loss.av.joint", over="champion", at_most=0.0)
    check = over.check(evaluation(), {"champion": champion(0.9)})
    assert (check.seen, check.low, check.met, check.reference) == (0.0, None, True, "version 3")


def test_a_task_has_numbers_of_its_own() -> None:
    seen = evaluation().model_copy(update={"tasks": {"daily-omni": evaluation(av=0.6)}})
    expectation = Expectation(metric="accuracy.av.joint", task="daily-omni", at_least=0.7)
    assert expectation.check(seen).outcome == (
        "daily-omni: accuracy.av.joint at least 0.70: 0.60 [0.55, 0.64], missed by 0.10"
    )
    assert expectation.check(evaluation()).met is None


@pytest.mark.parametrize(
    ("bound", "met"), [({"above": 0.97}, False), ({"at_least": 0.97}, True), ({"below": 0.97}, False)]
)
def test_strict_bounds_leave_the_bound_out(bound: dict[str, float], met: bool) -> None:
    assert Expectation(metric="accuracy.av.joint", **bound).check(evaluation()).met is met


def test_the_gates_that_ship_are_read_by_name() -> None:
    assert [load_gate(path.stem).name for path in sorted(gate_folder().glob("*.yaml"))] == [
        "challenger",
        "champion",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "{name: own, rules: [{metric: accuracy.joint, at_least: 0}]}",
            r"rules\.0\.metric: .*not a number of",
        ),
        ("{name: other, rules: []}", "name: 'other' is not the name of the file"),
        ("{name: own, family: jiont, rules: []}", "family: .*not one of visual, audio, joint.*mean joint?"),
        ("{name: own, rules: [], alias: x}", "alias: unknown field"),
        ("name: [", "not valid YAML"),
    ],
)
def test_a_gate_that_is_none_is_one_line(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(GateError, match=problem) as caught:
        load_gate(str(path))
    assert "\n" not in str(caught.value)
    with pytest.raises(GateError, match=r"no gate 'absent'.*challenger, champion"):
        load_gate("absent")
