import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_av.evaluation.reply_parsing import parse_answer, parse_letter, parse_open
from llava_av.evaluation.scoring import score

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
        ("A) or B)", None),
        ("A or B", None),
        ("(A) perhaps, or else (C)", None),
        ("The answer is A or B", None),
        ("Answer: A, C", None),
        ("Answer:\nD", "the bell"),
        ("The answer is 'D'", "the bell"),
        ("__B__", "a spoon"),
        ("not A", None),
        ("Not A.", None),
        ("A) is wrong", None),
        ("Option A is wrong", None),
        ("It's not option A", None),
        ("The answer isn't B", None),
        ("The answer is neither A nor B", None),
        ("The answer is B because A is wrong", "a spoon"),
        ("The answer is B, not A", "a spoon"),
        ("The answer is B rather than A", "a spoon"),
        ("I don't know, but the answer is B", "a spoon"),
        ("The answer is A. Actually, B", None),
        ("a cat", None),
        ("b) a spoon", "a spoon"),
        ("b) a dog", None),
        ("The answer is a dog", "a dog"),
        ("The answer is B, a dog", None),
        ("B is a dog", None),
        ("B. A spoon", "a spoon"),
        ("a.m. today", None),
        ("not a dog", None),
        ("I do not hear a dog", None),
        ("a dog is wrong", None),
        ("I am not sure, but I hear a dog", "a dog"),
    ],
)
def test_a_letter_or_the_words_of_a_choice(reply: str, parsed: str | None) -> None:
    assert parse_letter(reply, CHOICES) == parsed


@pytest.mark.parametrize(
    ("reply", "parsed"),
    [
        ("B. Vitamin C", "Vitamin C"),
        ("The answer is B, Vitamin C", "Vitamin C"),
        ("B. Vitamin A", None),
        ("I choose Plan C", "Plan C"),
        ("D. Not a dog", "Not a dog"),
    ],
)
def test_letters_that_stand_in_choices_are_words(reply: str, parsed: str | None) -> None:
    assert parse_letter(reply, ("Vitamin A", "Vitamin C", "Plan C", "Not a dog")) == parsed


@pytest.mark.parametrize(
    ("reply", "parsed"),
    [
        ("2", "two"),
        ("I see 2 violins", "two"),
        ("Two", "two"),
        ("0", "zero"),
        ("more than 10", "more than ten"),
        ("10", "ten"),
        ("12", None),
        ("2 or 10", None),
        ("not two", None),
        ("There is no violin", None),
        ("No, there is not", "no"),
        ("no there is no", "no"),
    ],
)
def test_numbers_are_read_in_both_spellings(reply: str, parsed: str | None) -> None:
    assert parse_answer(reply, ("zero", "two", "ten", "more than ten", "yes", "no", "violin")) == parsed


def test_numbers_that_only_differ_in_spelling_are_told_apart() -> None:
    assert [parse_answer(reply, ("2", "two")) for reply in ("2", "two", "II")] == ["2", "two", None]


@pytest.mark.parametrize(
    ("reply", "parsed"),
    [
        ("it is red", "red"),
        ("not red", None),
        ("It isn't red", None),
        ("red or blue", None),
        ("red is wrong", None),
        ("a dark red, I do not know", "dark red"),
        ("red, white", "red, white"),
        ("I see no red, white", None),
    ],
)
def test_a_choice_that_is_denied_is_no_answer(reply: str, parsed: str | None) -> None:
    assert parse_answer(reply, ("red", "blue", "dark red", "red, white")) == parsed


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
