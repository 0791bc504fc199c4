import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from llava_av.evaluation.reply_parsing import parse_answer
from llava_av.evaluation.scoring import EvaluationError, score
from llava_av.runs import Prediction

COLOURS = ("red", "green", "blue", "yellow")

words = st.text(alphabet="abcdefgxyzäéß日本", min_size=1, max_size=6)
phrases = st.lists(words, min_size=1, max_size=3).map(" ".join)
choice_lists = st.lists(phrases, min_size=1, max_size=5, unique_by=str.casefold)
padding = st.text(alphabet=" .,;:!?\"'\n\t()-", max_size=4)


@pytest.mark.parametrize(
    ("reply", "parsed"),
    [
        ("red", "red"),
        (" Red.\n", "red"),
        ("RED!", "red"),
        ("It was red.", "red"),
        ("red, I think; yes: Red", "red"),
        ("red or green", None),
        ("reddish", None),
        ("infrared", None),
        ("purple", None),
        ("", None),
        ("...", None),
        ("not sure", None),
    ],
)
def test_a_reply_is_the_one_choice_it_holds(reply: str, parsed: str | None) -> None:
    assert parse_answer(reply, COLOURS) == parsed


@pytest.mark.parametrize(
    ("reply", "choices", "parsed"),
    [
        ("dark red", ("red", "dark red"), "dark red"),
        ("It was dark red, I think.", ("red", "dark red"), "dark red"),
        ("dark red and red", ("red", "dark red"), None),
        ("red", ("red", "dark red"), "red"),
        ("to the left-hand side", ("left hand", "right hand"), "left hand"),
        ("dont know", ("don't know", "know"), "don't know"),
        ("C#", ("C", "C#"), "C#"),
        ("It is C.", ("C", "C#"), "C"),
        ('"C#".', ("C", "C#"), "C#"),
        ("3.5 s", ("3", "3.5"), "3.5"),
        ("3.7", ("3", "5"), None),
        ("-1", ("1", "-1"), "-1"),
        ("\uff32\uff25\uff24", COLOURS, "red"),
        ("STRASSE", ("Straße", "Weg"), "Straße"),
        ("red", ("Red", "red"), "Red"),
        ("?", ("?", "!"), "?"),
        ("yes", ("", "yes"), "yes"),
        ("", ("", "yes"), None),
    ],
)
def test_close_choices_are_told_apart(reply: str, choices: tuple[str, ...], parsed: str | None) -> None:
    assert parse_answer(reply, choices) == parsed


@given(choices=choice_lists, index=st.integers(0, 4), before=padding, after=padding, upper=st.booleans())
def test_decoration_never_changes_the_choice(
    choices: list[str], index: int, before: str, after: str, upper: bool
) -> None:
    choice = choices[index % len(choices)]
    reply = before + (choice.upper() if upper else choice) + after
    found = parse_answer(reply, choices)
    assert found is not None
    assert found.casefold() == choice.casefold()


@given(reply=st.text(max_size=40), choices=st.lists(st.text(max_size=8), max_size=5))
def test_any_text_gives_a_choice_or_nothing(reply: str, choices: list[str]) -> None:
    parsed = parse_answer(reply, choices)
    if choices:
        assert parsed is None or parsed in choices
    else:
        assert parsed == (reply.strip() or None)


@given(reply=st.text(max_size=40), choices=choice_lists)
def test_the_order_of_choices_does_not_matter(reply: str, choices: list[str]) -> None:
    assert parse_answer(reply, choices) == parse_answer(reply, choices[::-1])


def judged(reply: str, answer: str, choices: tuple[str, ...] = COLOURS, loss: float = 0.5) -> Prediction:
    return score(
        sample_id="s1",
        ablation="av",
        kind="joint_colour" if choices else "all",
        question="Which colour?",
        choices=choices,
        answer=answer,
        reply=reply,
        loss=loss,
        clip="clips/1.mp4",
    )


@pytest.mark.parametrize(
    ("reply", "answer", "choices", "correct", "parsed"),
    [
        ("Red.", "red", COLOURS, True, "red"),
        ("green", "red", COLOURS, False, "green"),
        ("hm", "red", COLOURS, False, None),
        ("A dog barks", "a dog barks.", (), True, "A dog barks"),
        ("A dog barks twice", "a dog barks", (), False, "A dog barks twice"),
        ("left hand", "left-hand", (), True, "left hand"),
        ("  ", "a dog", (), False, None),
        ("!", "?", (), False, "!"),
    ],
)
def test_score_judges_the_parsed_answer(
    reply: str, answer: str, choices: tuple[str, ...], correct: bool, parsed: str | None
) -> None:
    prediction = judged(reply, answer, choices)
    assert (prediction.correct, prediction.parsed) == (correct, parsed)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_diverged_model_is_an_error_that_names_the_sample(loss: float) -> None:
    with pytest.raises(EvaluationError, match=r"sample s1, av: .* diverged"):
        judged("red", "red", loss=loss)


def test_a_prediction_is_one_line_of_json_and_back() -> None:
    prediction = judged("Red\nor so", "red")
    line = prediction.to_json_line()
    assert line.count("\n") == 1
    assert Prediction.model_validate_json(line) == prediction
    assert set(json.loads(line)) == {
        "id", "ablation", "kind", "question", "choices", "answer",
        "reply", "parsed", "correct", "loss", "clip", "modalities",
    }  # fmt: skip
    with pytest.raises(ValidationError):
        Prediction.model_validate_json(line.replace('"reply"', '"replies"'))


def test_a_predictions_family_is_that_of_its_kind() -> None:
    assert judged("red", "red").family == "joint"
