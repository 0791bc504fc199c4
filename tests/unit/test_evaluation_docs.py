"""Examples of parsed replies in docs/evaluation.md match the rules."""

import re
from pathlib import Path

import pytest

from llava_av.evaluation.reply_parsing import RULES

_TEXT = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
_CHOICES = ("a cup", "a spoon", "a dog", "the bell")


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the table below a head."""
    table = _TEXT[_TEXT.index(heading) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def replies(cell: str) -> list[str]:
    return re.findall(r"`([^`]*)`", cell) + ([""] if "an empty reply" in cell else [])


@pytest.mark.parametrize(
    ("reply", "result"),
    [(reply, row[2]) for row in rows("| reply | lmms-eval | `letter` 2") for reply in replies(row[0])],
)
def test_letters_are_parsed_as_documented(reply: str, result: str) -> None:
    parsed = RULES["letter"].parse(reply, _CHOICES)
    assert result == ("unparsed" if parsed is None else "ABCD"[_CHOICES.index(parsed)])


@pytest.mark.parametrize(
    ("answer", "reply", "result"),
    [
        (row[0], reply, row[3])
        for row in rows("| correct answer | reply | lmms-eval | `open` 1")
        for reply in replies(row[1])
    ],
)
def test_open_replies_are_parsed_as_documented(answer: str, reply: str, result: str) -> None:
    rule = RULES["open"]
    parsed, right = rule.parse(reply, ()), rule.resolve(answer, ())
    if parsed is None:
        assert result == "unparsed"
    else:
        assert right is not None
        assert result == ("right" if rule.answers(parsed, right, ()) else "wrong")


def test_every_rule_is_documented_under_its_version() -> None:
    names = [row[0].split() for row in rows("| Rule | Answer")]
    assert names == [[f"`{rule.name}`", str(rule.version)] for rule in RULES.values()]


def test_both_tables_were_found() -> None:
    assert len(rows("| reply | lmms-eval | `letter` 2")) == 12
    assert len(rows("| correct answer | reply | lmms-eval | `open` 1")) == 7
