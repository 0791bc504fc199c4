"""Prose of a record as HTML, and numbers as text."""

import pytest

from llava_av.report.labels import duration, file_size
from llava_av.report.prose import blocks, spans


def test_prose_keeps_paragraphs_and_lists_apart() -> None:
    found = blocks("One\nline.\n\nNext:\n- a\n  goes on\n- b\n\n1. c")
    assert [(block.is_list, block.items) for block in found] == [
        (False, ("One line.",)),
        (False, ("Next:",)),
        (True, ("a goes on", "b")),
        (True, ("c",)),
    ]
    assert blocks("  ") == ()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see `a_b*c` and `d`.", ["see ", "[a_b*c]", " and ", "[d]", "."]),
        ("`` a`b ``", ["[a`b]"]),
        ("a lone ` stays, so do ` `` ", ["a lone ", "[stays, so do]", " `` "]),
        ("no `` fellow `", ["no `` fellow `"]),
        ("", []),
    ],
)
def test_inline_code_is_told_apart(text: str, found: list[str]) -> None:
    assert [f"[{span.text}]" if span.is_code else span.text for span in spans(text)] == found


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (128.9, "2 min 09 s"),
        (3600, "1 h 00 min"),
        (11_220, "3 h 07 min"),
    ],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(812, "812 B"), (14_200, "14 kB"), (3_200_000, "3.2 MB"), (999_600, "1.0 MB")]
)
def test_file_sizes_read_well(size: int, text: str) -> None:
    assert file_size(size) == text
