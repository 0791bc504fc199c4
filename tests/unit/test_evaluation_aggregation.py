import json
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_av.evaluation.aggregation import evaluate_predictions
from llava_av.evaluation.scoring import EvaluationError, score
from llava_av.evaluation.statistics import wilson_interval
from llava_av.runs import Prediction
from llava_av.vocabulary import Ablation

COLOURS = ("red", "green", "blue", "yellow")
NAMES = ["av", "video_only", "audio_only", "text_only", "shuffled_audio"]
SIDES = ("before", "after")
KINDS = {"visual": COLOURS, "audio": SIDES, "joint_colour": COLOURS, "joint_side": SIDES}


def predictions(reply: Callable[[str, str, int, str], str], clips: int = 20) -> list[Prediction]:
    """Return each kind once per clip and ablation, with the reply `reply(ablation, kind, clip, answer)`."""
    return [
        score(
            sample_id=f"{clip}-{kind}",
            ablation=ablation,
            kind=kind,
            question=f"{kind}?",
            choices=choices,
            answer=choices[clip % len(choices)],
            reply=reply(ablation, kind, clip, choices[clip % len(choices)]),
            loss=0.1 if ablation == "av" else 1.5,
            clip=f"clips/{clip}.mp4",
        )
        for ablation in Ablation
        for clip in range(clips)
        for kind, choices in KINDS.items()
    ]


def seeing_and_hearing(ablation: str, kind: str, clip: int, answer: str) -> str:
    """Return the correct answer if the needed modalities are present, otherwise the first choice."""
    needs = {"visual": {"video_only"}, "audio": {"audio_only"}}.get(kind, set()) | {"av"}
    return answer if ablation in needs else KINDS[kind][0]


def test_the_layout_is_the_evaluations() -> None:
    result = evaluate_predictions(predictions(seeing_and_hearing), draws=300, seed=0).model_dump(mode="json")
    assert list(result) == ["accuracy", "kinds", "loss", "modalities", "differences"]
    assert list(result["accuracy"]) == NAMES
    assert list(result["accuracy"]["av"]) == ["visual", "audio", "joint"]
    assert list(result["accuracy"]["av"]["joint"]) == ["value", "low", "high", "chance", "n", "unparsed"]
    assert list(result["differences"]) == NAMES[1:]
    assert list(result["differences"]["text_only"]) == ["visual", "audio", "joint"]
    assert list(result["differences"]["text_only"]["joint"]) == ["value", "low", "high"]
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_numbers_of_a_model_with_both_modalities() -> None:
    result = evaluate_predictions(predictions(seeing_and_hearing), draws=300, seed=0).model_dump(mode="json")
    joint = result["accuracy"]["av"]["joint"]
    # Two correct answers about each clip count as one.
    assert joint == {**wilson_interval(20, 20).model_dump(), "chance": 0.375, "n": 40, "unparsed": 0}
    blind = result["accuracy"]["audio_only"]
    assert blind["joint"]["value"] == pytest.approx(0.375)
    assert blind["audio"]["value"] == 1
    assert blind["visual"]["chance"] == 0.25
    assert result["loss"]["av"]["joint"] == pytest.approx(0.1)
    difference = result["differences"]["audio_only"]["joint"]
    assert difference["value"] == pytest.approx(0.625)
    assert 0 < difference["low"] < difference["value"] < difference["high"]


def test_unparsed_replies_are_wrong_and_counted_apart() -> None:
    def silent_on_even(ablation: str, kind: str, clip: int, answer: str) -> str:
        return answer if clip % 2 else "hm"

    cell = evaluate_predictions(predictions(silent_on_even), draws=300, seed=0).model_dump(mode="json")[
        "accuracy"
    ]["av"]["joint"]
    assert (cell["value"], cell["unparsed"], cell["n"]) == (0.5, 20, 40)


def test_questions_about_a_clip_are_taken_together_everywhere() -> None:
    """All answers about half of the clips are wrong, so more questions per clip add no information."""

    def whole_clips(ablation: str, kind: str, clip: int, answer: str) -> str:
        return answer if clip % 2 else "hm"

    result = evaluate_predictions(predictions(whole_clips), draws=300, seed=0).model_dump(mode="json")
    single, double = result["accuracy"]["av"]["visual"], result["accuracy"]["av"]["joint"]
    assert (single["n"], double["n"]) == (20, 40)
    assert double["high"] - double["low"] >= single["high"] - single["low"]
    (everything,) = (
        evaluate_predictions(
            [item.model_copy(update={"modalities": "video_audio"}) for item in predictions(whole_clips)],
            draws=300,
            seed=0,
        )
        .model_dump()["modalities"]
        .values()
    )
    assert everything["high"] - everything["low"] >= single["high"] - single["low"]


def test_a_failing_kind_does_not_hide_in_its_family() -> None:
    def blind_to_sides(ablation: str, kind: str, clip: int, answer: str) -> str:
        return "hm" if kind == "joint_side" else answer

    result = evaluate_predictions(predictions(blind_to_sides), draws=300, seed=0).model_dump(mode="json")
    kinds = result["kinds"]["av"]
    assert list(kinds) == ["visual", "audio", "joint_colour", "joint_side"]
    assert list(result["kinds"]) == list(result["accuracy"])
    side = {**wilson_interval(0, 20).model_dump(), "chance": 0.5, "n": 20, "unparsed": 20}
    assert kinds["joint_side"] == {**side, "loss": pytest.approx(0.1)}
    assert (kinds["joint_colour"]["value"], kinds["joint_colour"]["chance"]) == (1.0, 0.25)
    assert result["accuracy"]["av"]["joint"]["value"] == 0.5
    assert {**result["accuracy"]["av"]["visual"], "loss": pytest.approx(0.1)} == kinds["visual"]


def test_chance_weights_the_joint_kinds_by_n() -> None:
    kept = [item for item in predictions(seeing_and_hearing) if item.kind != "joint_side" or "1" in item.id]
    joint = evaluate_predictions(kept, draws=300, seed=0).model_dump(mode="json")["accuracy"]["av"]["joint"]
    sides = joint["n"] - 20
    assert 0 < sides < 20
    assert joint["chance"] == pytest.approx((20 / 4 + sides / 2) / joint["n"])


def test_a_users_own_dataset_has_no_chance() -> None:
    asked = [
        score(
            sample_id=str(index),
            ablation=ablation,
            kind="all",
            question="What?",
            choices=("a", "b") if index % 2 else (),
            answer="a",
            reply="a",
            loss=1.0,
            clip=None,
        )
        for ablation in Ablation
        for index in range(4)
    ]
    result = evaluate_predictions(asked, draws=300, seed=0).model_dump(mode="json")
    assert result["accuracy"]["av"]["all"]["chance"] is None
    assert result["differences"]["text_only"]["all"]["value"] == 0.0
    assert list(result["loss"]["text_only"]) == ["all"]


@given(order=st.randoms(use_true_random=False))
@settings(max_examples=10, deadline=None)
def test_the_order_of_predictions_does_not_matter(order: random.Random) -> None:
    given_ = predictions(seeing_and_hearing, clips=6)
    shuffled = list(given_)
    order.shuffle(shuffled)
    assert evaluate_predictions(shuffled, draws=200, seed=0) == evaluate_predictions(
        given_, draws=200, seed=0
    )


def test_the_seed_moves_the_differences_alone() -> None:
    def lucky(ablation: str, kind: str, clip: int, answer: str) -> str:
        return answer if (clip * 7 + len(ablation) + len(kind)) % 3 else "hm"

    first, second = (evaluate_predictions(predictions(lucky), draws=200, seed=seed) for seed in (0, 1))
    assert first.accuracy == second.accuracy
    assert first.differences != second.differences


def test_questions_asked_in_one_ablation_alone_are_refused() -> None:
    asked = predictions(seeing_and_hearing, clips=2)
    with pytest.raises(EvaluationError, match=r"av has 8 .*shuffled_audio has 7.*sample 1-j"):
        evaluate_predictions(asked[:-1], draws=200, seed=0)
    with pytest.raises(EvaluationError, match=r"ablation 'deaf'.* av, video_only"):
        evaluate_predictions(
            [*asked, asked[0].model_copy(update={"ablation": "deaf"})], draws=200, seed=0
        ).model_dump(mode="json")
    with pytest.raises(EvaluationError, match="no prediction"):
        evaluate_predictions([], draws=200, seed=0)
