"""From a reply to the answer that it gives: the rules, each with a version that results carry.

What a rule makes of a reply never changes under its version. A reply from which no answer can be told is
unparsed: it counts as wrong, and is counted apart, since it says nothing about what the model perceived.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["RULES", "Rule", "parse_answer", "parse_letter", "parse_open"]

_Words = tuple[str, ...]
_APOSTROPHES = re.compile(r"['’`´]")
_SENTENCE_MARKS = ".,;:!?…\"'“”‘’`()[]{}<>*_"
_ARTICLES = ("a", "an", "the")
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBER_WORDS = {word: str(number) for number, word in enumerate(_NUMBERS)}
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_BEHIND = r"\b(?i:answer|option|choice)\b(?:\W|\b(?i:is|would|be|option|choice)\b)*\b"


def parse_answer(reply: str, choices: Sequence[str]) -> str | None:
    """The answer that a reply gives, or None if it gives none that can be told.

    Case, punctuation and white space do not count. A reply is a choice if it is that choice, or if that
    choice and no other stands in it as whole words; of overlapping choices ("red", "dark red") the longest
    counts. Where choices differ by nothing but punctuation ("C", "C#") only the marks that end or quote a
    sentence are passed over.

    Args:
        reply: the model's text.
        choices: allowed answers; empty for an open question, which any reply but an empty one answers.

    Returns:
        The choice as it is spelled in `choices`, or the stripped reply of an open question.
    """
    if not choices:
        return reply.strip() or None
    words_of = _reader(choices)
    spelled: dict[_Words, str] = {}
    for choice in choices:
        spelled.setdefault(words_of(choice), choice)
    spelled.pop((), None)
    reply_words = words_of(reply)
    if reply_words in spelled:
        return spelled[reply_words]
    found = _choices_within(reply_words, set(spelled))
    return spelled[found.pop()] if len(found) == 1 else None


def parse_letter(reply: str, choices: Sequence[str]) -> str | None:
    """The choice that a reply names by its letter, or else by its words.

    In this order: a reply that is a letter and nothing else but marks ("b", "(B)", "**B.**"); one that
    begins with a letter and a mark ("B. red", "(B) red"), unless its words are those of another choice; a
    letter behind "answer", "option" or "choice" ("the answer is (B)"), unless several are named so; the
    rule `choice`, on the words of the choices.

    Args:
        reply: the model's text.
        choices: the choices in the order of their letters; at most 26.

    Returns:
        The choice as it is spelled in `choices`.
    """
    text = unicodedata.normalize("NFKC", reply).strip()
    known = _LETTERS[: len(choices)]
    alone = re.fullmatch(rf"\W*([{known}{known.lower()}])\W*", text)
    if alone:
        return choices[known.index(alone[1].upper())]
    first = re.match(rf"\W*(?:([{known}])\s*[.):]|[(\[]([{known}])[)\]])\s*(.*)", text, re.DOTALL)
    if first:
        named, said = choices[known.index(first[1] or first[2])], parse_answer(first[3], choices)
        return named if said in (None, named) else None
    letters = set(re.findall(rf"{_BEHIND}([{known}])\b(?!['’])", text))
    if letters:
        return choices[known.index(letters.pop())] if len(letters) == 1 else None
    return parse_answer(reply, choices)


def parse_open(reply: str, choices: Sequence[str] = ()) -> str | None:
    """The words of a reply in lower case, without marks and articles, numbers up to ten in digits.

    Args:
        reply: the model's text.
        choices: not looked at: an open question has none.

    Returns:
        The words with a space between; None if there is none.
    """
    words = [_NUMBER_WORDS.get(word, word) for word in _loose_words(reply)]
    bare = [word for word in words if word not in _ARTICLES]
    return " ".join(bare or words) or None


def _choice_answers(parsed: str, answer: str, choices: Sequence[str]) -> bool:
    words_of = _reader(choices or (answer,))
    return words_of(parsed) == words_of(answer)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How replies to a task's questions are read."""

    name: str
    version: int
    """Raised whenever some reply is read otherwise than before."""
    about: str
    """What is done, in a line."""
    parse: Callable[[str, Sequence[str]], str | None]
    """From a reply and the choices to the answer, None if it gives none."""
    resolve: Callable[[str, Sequence[str]], str | None]
    """From the answer as the task's data spell it to the answer as `parse` does."""
    answers: Callable[[str, str, Sequence[str]], bool]
    """Whether what was parsed is that answer."""


def _equal(parsed: str, answer: str, choices: Sequence[str]) -> bool:
    return parsed == answer


RULES = {
    rule.name: rule
    for rule in (
        Rule(
            name="choice",
            version=1,
            about="the one choice whose words stand in the reply; without choices the whole reply",
            parse=lambda reply, choices: parse_answer(reply, choices),
            resolve=lambda answer, choices: answer,
            answers=_choice_answers,
        ),
        Rule(
            name="letter",
            version=1,
            about="the choice that the reply names by its letter, or else by its words",
            parse=parse_letter,
            resolve=parse_letter,
            answers=_equal,
        ),
        Rule(
            name="open",
            version=1,
            about="the whole reply but for case, marks, articles and the spelling of numbers up to ten",
            parse=parse_open,
            resolve=parse_open,
            answers=_equal,
        ),
    )
}
"""Every rule by its name."""


def _reader(texts: Sequence[str]) -> Callable[[str], _Words]:
    """The most forgiving way to read `texts` that leaves none empty and confuses no two."""
    strict = {_strict_words(text) for text in texts}
    loose = {_loose_words(text) for text in texts}
    return _loose_words if len(loose) == len(strict) and () not in loose else _strict_words


def _loose_words(text: str) -> _Words:
    folded = _APOSTROPHES.sub("", _fold(text))
    kept = [
        " " if unicodedata.category(mark).startswith("P") and not _is_decimal(folded, index) else mark
        for index, mark in enumerate(folded)
    ]
    return tuple("".join(kept).split())


def _strict_words(text: str) -> _Words:
    words = _fold(text).split()
    return tuple(word.strip(_SENTENCE_MARKS) or word for word in words)


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _is_decimal(text: str, index: int) -> bool:
    """Whether the mark at `index` stands between two digits, as in 3.5."""
    return 0 < index < len(text) - 1 and text[index - 1].isdigit() and text[index + 1].isdigit()


def _choices_within(words: _Words, choices: set[_Words]) -> set[_Words]:
    """The choices that stand in `words`, read from the left, the longest first at each word."""
    lengths = sorted({len(choice) for choice in choices}, reverse=True)
    found: set[_Words] = set()
    start = 0
    while start < len(words):
        here = (words[start : start + length] for length in lengths)
        match = next((candidate for candidate in here if candidate in choices), None)
        if match is not None:
            found.add(match)
        start += len(match) if match else 1
    return found
