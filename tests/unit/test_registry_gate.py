import json
import math
from pathlib import Path
from typing import Any

import pytest

from llava_av.named_files import FileKind, default_folder
from llava_av.registry.baselines import Baseline, unpaired_difference
from llava_av.registry.expectations import Expectation
from llava_av.registry.gate import GateError, applicable_gate, challenger_gate, evaluate_gate, load_gate
from llava_av.runs import EvaluationResult, GateDecision, Interval
from tests.artifacts import evaluated
from tests.gate_samples import cell, champion, evaluation, numbers

CHAMPION = load_gate("champion")
EXPECTED = (
    Expectation(metric="accuracy.av.joint", at_least=0.9),
    Expectation(metric="accuracy.video_only.joint.low", at_most="chance"),
)


def test_a_model_that_uses_both_streams_passes() -> None:
    result = evaluate_gate(evaluation(), EXPECTED, CHAMPION)
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
    result = evaluate_gate(evaluation(**changed), EXPECTED, CHAMPION)
    assert result.passed is False
    assert result.reasons == (reason,)


@pytest.mark.parametrize("ablation", ["video_only", "audio_only", "text_only"])
@pytest.mark.parametrize("low", [0.0, -0.1])
def test_an_interval_that_holds_zero_fails_for_each_ablation(ablation: str, low: float) -> None:
    result = evaluate_gate(evaluation(**{f"low_{ablation}": low}), EXPECTED, CHAMPION)
    assert result.passed is False
    assert len(result.reasons) == 1
    assert ablation in result.reasons[0]


def test_every_reason_is_given() -> None:
    result = evaluate_gate(evaluation(av=0.5, low_video_only=-0.1, low_text_only=0.0), EXPECTED, CHAMPION)
    assert len(result.reasons) == 3


def test_an_ablation_that_was_not_run_fails() -> None:
    without = numbers()
    del without["differences"]["text_only"]
    result = evaluate_gate(evaluated(without), EXPECTED, CHAMPION)
    assert result.passed is False
    assert result.reasons == (
        "differences.text_only.joint.low is not in the evaluation (no ablation text_only, only video_only, "
        "audio_only, shuffled_audio), expected above 0.00",
    )


def test_an_expectation_that_cannot_be_checked_fails() -> None:
    result = evaluate_gate(evaluation(), [Expectation(metric="accuracy.av.audio", at_least=0.5)], CHAMPION)
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
    (reason,) = evaluate_gate(asked, [expectation], CHAMPION).reasons
    assert f"({lacks})" in reason
    (reason,) = evaluate_gate(evaluation(), [expectation], CHAMPION).reasons
    assert f"(no task {task})" in reason


def test_a_users_own_dataset_is_not_gated() -> None:
    own = {"accuracy": {"av": {"all": cell(0.4, chance=None)}}, "differences": {}}
    result = evaluate_gate(evaluated(own), EXPECTED, CHAMPION)
    assert result.passed is None
    assert result.reasons == ("the gate judges joint questions, and this dataset has only all questions",)
    assert [check.met for check in result.expected] == [None, None]


def _own(**lows: float) -> EvaluationResult:
    """Return an evaluation of families `scene` and `sport` with these lower ends without media."""
    accuracy = {"scene": cell(0.8), "sport": cell(0.6)}
    differences = {name: {"value": 0.3, "low": low, "high": 0.5} for name, low in lows.items()}
    return evaluated({"accuracy": {"av": accuracy}, "differences": {"text_only": differences}})


def test_own_data_is_judged_by_its_record_and_the_champion_in_each_family() -> None:
    gate = applicable_gate(CHAMPION, _own(scene=0.1, sport=0.1))
    assert (gate.name, applicable_gate(CHAMPION, evaluation()).name) == ("own-data", "champion")
    uses_media = Expectation(metric="differences.text_only.*.low", above=0)
    passed = evaluate_gate(_own(scene=0.1, sport=0.1), [uses_media], gate)
    assert (passed.passed, [check.met for check in passed.expected]) == (True, [True, True])
    failed = evaluate_gate(_own(scene=0.1, sport=-0.1), [uses_media], gate)
    assert failed.reasons == ("differences.text_only.sport.low is -0.10, expected above 0.00",)


@pytest.mark.parametrize(("before", "passes"), [(0.6, True), (0.9, False)])
def test_a_clearly_better_champion_stays_on_own_data(before: float, passes: bool) -> None:
    own = _own(scene=0.1, sport=0.1)
    earlier = {"accuracy": {"av": {"scene": cell(before), "sport": cell(0.6)}}, "differences": {}}
    champion = Baseline(label="version 1", evaluation=evaluated(earlier), paired={})
    decided = evaluate_gate(own, [], load_gate("own-data"), {"champion": champion})
    assert (decided.passed, len(decided.rules)) == (passes, 2)


@pytest.mark.parametrize("broken", [{"accuracy": {}}, {"accuracy": {"video_only": {}}}])
def test_what_is_no_evaluation_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(GateError, match=r"no accuracy\.av"):
        evaluate_gate(evaluated(broken), EXPECTED, CHAMPION)


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
    result = evaluate_gate(evaluation(av=0.5), EXPECTED, CHAMPION)
    data = json.loads(json.dumps(result.model_copy(update={"moved": ("champion",)}).to_json()))
    assert list(data) == ["passed", "reasons", "moved", "expected", "rules", "before", "override"]
    assert data["moved"] == ["champion"]
    assert data["expected"][0]["seen"] == 0.5


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
    result = evaluate_gate(evaluation(), [over], CHAMPION)
    assert result.passed is False
    assert "(no family audio, only joint)" in result.reasons[0]
    ruled = CHAMPION.model_copy(update={"rules": (over,)})
    assert evaluate_gate(evaluation(), EXPECTED, ruled).passed is False


def test_a_parent_that_was_never_evaluated_is_a_reason() -> None:
    over = Expectation(metric="accuracy.av.joint", over="parent", at_least=0.0)
    result = evaluate_gate(evaluation(), [over], CHAMPION)
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


def test_the_gates_that_ship_are_read_by_name() -> None:
    assert [load_gate(path.stem).name for path in sorted(default_folder(FileKind.GATES).glob("*.yaml"))] == [
        "champion",
        "own-data",
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
    with pytest.raises(GateError, match=r"no gate 'absent'.*champion, own-data"):
        load_gate("absent")


def test_a_challenger_is_judged_by_the_gate_of_the_champion_without_the_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gates").mkdir()
    gate = "name: {}\nrules:\n- {{metric: accuracy.av.joint, {}: {}}}\n"
    compared = "- {metric: accuracy.av.joint.low, over: champion, at_least: 0}\n"
    (tmp_path / "gates" / "champion.yaml").write_text(gate.format("champion", "above", 0.2) + compared)
    own = load_gate("champion")
    assert challenger_gate(own, evaluation()).rules == own.rules[:1]
    assert [rule.over for rule in challenger_gate(CHAMPION, evaluation()).rules] == [None] * 3
    (tmp_path / "gates" / "challenger.yaml").write_text(gate.format("challenger", "above", 0.1))
    assert challenger_gate(own, evaluation()) == load_gate("challenger")
