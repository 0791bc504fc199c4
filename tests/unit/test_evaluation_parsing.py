import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_av.evaluation.answers import score
from llava_av.evaluation.parsing import parse_letter, parse_open

CHOICES = ("a cup", "a spoon", "a dog", "the bell")


@pytest.mark.parametrize(
    ("reply", "parsed"),
    [
        ("B", "a spoon"),
        ("b", "a spoon"),
        ("(B)", "a spoon"),
        (" **B.** ", "a spoon"),
        ("B. a spoon", "a spoon"),
        ("B: it is heard twice", "a spoon"),
        ("(C) A dog", "a dog"),
        ("The answer is (D).", "the bell"),
        ("Answer: D", "the bell"),
        ("Option A would be the choice", "a cup"),
        ("I hear a dog", "a dog"),
        ("A dog", "a dog"),
        ("E", None),
        ("B. a dog", None),
        ("the answer is A, or the answer is C", None),
        ("a cup and a spoon", None),
        ("I cannot tell", None),
        ("A", "a cup"),
        ("", None),
        ("...", None),
    ],
)
def test_a_letter_or_the_words_of_a_choice(reply: str, parsed: str | None) -> None:
    assert parse_letter(reply, CHOICES) == parsed


@pytest.mark.parametrize(
    ("reply", "parsed"),
    [
        ("Yes.", "yes"),
        ("The birds", "birds"),
        ("two", "2"),
        ("2", "2"),
        ("A", "a"),
        ("", None),
        ("?!", None),
        ("more than ten", "more than 10"),
    ],
)
def test_an_open_reply_is_its_words(reply: str, parsed: str | None) -> None:
    assert parse_open(reply) == parsed


@given(reply=st.text(max_size=40))
def test_any_reply_names_a_choice_or_none(reply: str) -> None:
    assert parse_letter(reply, CHOICES) in (*CHOICES, None)
    found = parse_open(reply)
    assert found is None or parse_open(found) == found


@given(
    place=st.integers(0, 3),
    around=st.sampled_from(["{}", "({})", "{}.", "{}) so", "answer: {}", "Answer is {}"]),
)
def test_every_letter_is_read_as_its_choice(place: int, around: str) -> None:
    assert parse_letter(around.format("ABCD"[place]), CHOICES) == CHOICES[place]


@pytest.mark.parametrize(
    ("rule", "reply", "answer", "choices", "parsed", "correct"),
    [
        ("letter", "(B)", "B", CHOICES, "a spoon", True),
        ("letter", "a dog", "B", CHOICES, "a dog", False),
        ("letter", "hm", "B", CHOICES, None, False),
        ("open", "Two!", "2", (), "2", True),
        ("open", "", "2", (), None, False),
    ],
)
def test_rules_judge(
    rule: str, reply: str, answer: str, choices: tuple[str, ...], parsed: str | None, correct: bool
) -> None:
    judged = score(
        sample_id="1", ablation="av", kind="joint", question="?", choices=choices, answer=answer,
        reply=reply, loss=1.0, clip=None, rule=rule,
    )  # fmt: skip
    assert (judged.parsed, judged.correct) == (parsed, correct)
    assert judged.answer == ("a spoon" if rule == "letter" else answer)
