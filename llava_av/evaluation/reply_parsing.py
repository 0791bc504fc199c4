"""Rules that find the answer in a reply.

Results record the version of their rule, and under one version a rule always parses a reply in the same way.
A reply without a recognisable answer is unparsed: it counts as wrong, and also as unparsed, because it shows
nothing about the perception of the model.
"""

import re
import unicodedata
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

__all__ = ["RULES", "Rule", "parse_answer", "parse_letter", "parse_open"]

_Words = tuple[str, ...]
_APOSTROPHES = re.compile(r"['’`´]")
_SENTENCE_MARKS = ".,;:!?…\"'“”‘’`()[]{}<>*_"
_ARTICLES = ("a", "an", "the")
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBER_WORDS = {word: str(number) for number, word in enumerate(_NUMBERS)}
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_BEHIND = re.compile(r"\b(?i:answer|option|choice)\b(?:\W|_|\b(?i:is|would|be|option|choice)\b)*$")
_MARKED = re.compile(r"\s*[.):\]](?!\w\.)")
# "A dog" and "I hear" do not begin with the letter of a choice; "A or B" and "A is wrong" do.
_ARTICLE = re.compile(r"[AI]\s+(?!(?:or|and|nor|but|is|isn|because|since|as|seems|does)\b)[^\W\d_]{2}")
_CLAUSE_END = re.compile(r"(?<=[.,;!?])\s+|\n|\s+(?=but\b)")
_CONTRACTED = re.compile(r"(?:is|are|was|were|do|does|did|ca|could|wo|would|should)nt")
_DENIALS = {"no", "not", "never", "neither", "nor", "without", "than", "instead", "except", "cannot"}
_DENIALS_BEHIND = {"not", "wrong", "incorrect", "false", "cannot"}
_VERBS = {"is", "are", "was", "were", "does", "do", "would", "could", "can", "seems", "sounds"}


def parse_answer(reply: str, choices: Sequence[str]) -> str | None:
    """Return the answer of a reply; None if it has no answer or several.

    Case, punctuation, white space and the spelling of numbers up to ten are ignored. A reply gives a choice
    if it equals the choice, or if it contains the choice as whole words, contains no other choice and does
    not negate it ("not red", "red is wrong"). If choices overlap ("red", "dark red"), the longest match
    counts. If choices differ only in the spelling of a number ("two", "2") or in punctuation ("C", "C#"),
    that difference counts; then only marks that end or quote a sentence are ignored.

    Args:
        reply: Text of the model.
        choices: Allowed answers; empty for an open question, which any reply that is not empty answers.

    Returns:
        The choice as `choices` spells it, or the stripped reply to an open question.
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
    found = _choices_within([words_of(clause) for clause in _CLAUSE_END.split(reply)], set(spelled))
    return spelled[found.pop()] if len(found) == 1 else None


def parse_letter(reply: str, choices: Sequence[str]) -> str | None:
    """Return the choice that a reply names by its letter or, without a letter, by its words.

    A reply names a letter if it consists of the letter and punctuation ("b", "(B)", "**B.**"), begins with
    the letter and a mark ("B. red", "(b) red"), or has the letter after "answer", "option" or "choice" ("the
    answer is (B)"). Otherwise the rule `choice` applies to the words of the choices. A reply has no answer if
    its letters and words name different choices, or if it has another letter ("A) or B)") that it does not
    negate ("B, not A"; "B because A is wrong"). The article of "A dog" does not count as a letter, and
    neither does a letter among the words of a choice ("vitamin C").

    Args:
        reply: Text of the model.
        choices: Choices in the order of their letters; at most 26.

    Returns:
        The choice as `choices` spells it.
    """
    text = unicodedata.normalize("NFKC", reply).strip()
    known = _LETTERS[: len(choices)]
    alone = re.fullmatch(rf"[\W_]*([{known}{known.lower()}])[\W_]*", text)
    if alone:
        return choices[known.index(alone[1].upper())]
    letters = _letters_within(text, known, choices)
    named = {choices[known.index(letter)] for letter, _ in letters.values()}
    said = parse_answer("".join(" " if at in letters else mark for at, mark in enumerate(text)), choices)
    if said is None and not any(names for _, names in letters.values()):
        return None
    answers = named | ({said} if said is not None else set())
    return answers.pop() if len(answers) == 1 else None


def parse_open(reply: str, choices: Sequence[str] = ()) -> str | None:
    """Return the words of a reply in lower case, without punctuation and articles, with digits up to ten.

    Args:
        reply: Text of the model.
        choices: Ignored; an open question has none.

    Returns:
        The words with a space between them; None if there are none.
    """
    words = [_NUMBER_WORDS.get(word, word) for word in _loose_words(reply)]
    bare = [word for word in words if word not in _ARTICLES]
    return " ".join(bare or words) or None


def _choice_answers(parsed: str, answer: str, choices: Sequence[str]) -> bool:
    words_of = _reader(choices or (answer,))
    return words_of(parsed) == words_of(answer)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule that parses the replies to the questions of a task."""

    name: str
    version: int
    """Increased with every change in the parsing of any reply."""
    about: str
    """Description of one line."""
    parse: Callable[[str, Sequence[str]], str | None]
    """Function from a reply and the choices to the answer; None if the reply has none."""
    resolve: Callable[[str, Sequence[str]], str | None]
    """Function from the answer in the data of the task to the form that `parse` returns."""
    answers: Callable[[str, str, Sequence[str]], bool]
    """Function that compares a parsed answer with the correct answer, given the choices."""


def _equal(parsed: str, answer: str, choices: Sequence[str]) -> bool:
    return parsed == answer


RULES = {
    rule.name: rule
    for rule in (
        Rule(
            name="choice",
            version=2,
            about="the one choice whose words stand in the reply, numbers up to ten in either spelling; "
            "without choices the whole reply",
            parse=lambda reply, choices: parse_answer(reply, choices),
            resolve=lambda answer, choices: answer,
            answers=_choice_answers,
        ),
        Rule(
            name="letter",
            version=2,
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
"""All rules by name."""


def _reader(texts: Sequence[str]) -> Callable[[str], _Words]:
    """Return the most tolerant reader that makes no text empty and no two texts equal."""
    different = {_strict_words(text) for text in texts}
    for words_of in (_counting_words, _loose_words):
        read = {words_of(text) for text in texts}
        if len(read) == len(different) and () not in read:
            return words_of
    return _strict_words


def _counting_words(text: str) -> _Words:
    return tuple(_NUMBER_WORDS.get(word, word) for word in _loose_words(text))


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
    """Return whether the mark at `index` is between two digits, as in 3.5."""
    return 0 < index < len(text) - 1 and text[index - 1].isdigit() and text[index + 1].isdigit()


def _letters_within(text: str, known: str, choices: Sequence[str]) -> dict[int, tuple[str, bool]]:
    """Return by position the letters of choices that are not negated, and whether each names an answer."""
    single = rf"(?<![^\W_])(?<!\w['’])[{known}{known.lower()}](?![^\W_])(?!['’]\w)"
    of_choices = {letter for choice in choices for letter in re.findall(single, choice)}
    found: dict[int, tuple[str, bool]] = {}
    for match in re.finditer(single, text):
        before, after, letter = text[: match.start()], text[match.end() :], match.group()
        first = not _loose_words(before) and _MARKED.match(after) is not None
        names = first or (letter.isupper() and _BEHIND.search(before) is not None)
        is_word = letter.islower() or letter in of_choices or _ARTICLE.match(text, match.start()) is not None
        denied = _denied(_CLAUSE_END.split(before)[-1], _CLAUSE_END.split(after)[0])
        if (names or not is_word) and not denied:
            found[match.start()] = letter.upper(), names
    return found


def _choices_within(clauses: Sequence[_Words], choices: set[_Words]) -> set[_Words]:
    """Return the choices in a reply, with the longest match at each word; an empty set if one is negated."""
    words = tuple(word for clause in clauses for word in clause)
    clause_of = [number for number, clause in enumerate(clauses) for _ in clause]
    lengths = sorted({len(choice) for choice in choices}, reverse=True)
    places: list[tuple[int, int]] = []
    start = 0
    while start < len(words):
        here = (words[start : start + length] for length in lengths)
        match = next((candidate for candidate in here if candidate in choices), ())
        if match:
            places.append((start, start + len(match)))
        start += len(match) or 1
    within = {place for start, end in places for place in range(start, end)}

    def others(clause: int, start: int, end: int) -> str:
        """Return the words of a clause between two positions that are not part of a choice."""
        kept = (place for place in range(start, end) if clause_of[place] == clause and place not in within)
        return " ".join(words[place] for place in kept)

    for start, end in places:
        before = others(clause_of[start], 0, start)
        if _denied(before, others(clause_of[end - 1], end, len(words))):
            return set()
    return {words[start:end] for start, end in places}


def _denied(before: str, after: str) -> bool:
    """Return whether the text around a choice in its clause negates it: `not a dog`, `red is wrong`."""
    behind = _loose_words(after)
    behind = behind[1:] if behind[:1] and behind[0] in _VERBS else behind
    return any(_denies(word, _DENIALS) for word in _loose_words(before)) or any(
        _denies(word, _DENIALS_BEHIND) for word in behind[:1]
    )


def _denies(word: str, denials: Collection[str]) -> bool:
    return word in denials or _CONTRACTED.fullmatch(word) is not None
