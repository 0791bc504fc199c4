"""Counts and lists in messages."""

import pytest

from llava_av.plurals import count_of, listed


@pytest.mark.parametrize(
    ("number", "noun", "plural", "text"),
    [
        (0, "sample", "", "0 samples"),
        (1, "sample", "", "1 sample"),
        (2, "sample", "", "2 samples"),
        (1, "process", "processes", "1 process"),
        (3, "process", "processes", "3 processes"),
    ],
)
def test_a_count_has_the_grammatical_number(number: int, noun: str, plural: str, text: str) -> None:
    assert count_of(number, noun, plural) == text


@pytest.mark.parametrize(
    ("most", "text"), [(1, "a and 2 more"), (2, "a, b and 1 more"), (3, "a, b, c"), (4, "a, b, c")]
)
def test_a_list_counts_the_names_that_it_leaves_out(most: int, text: str) -> None:
    assert listed(["a", "b", "c"], most) == text
