"""From a reply to the answer that it gives: the rules, each with a version that results carry.

What a rule makes of a reply never changes under its version. A reply from which no answer can be told is
unparsed: it counts as wrong, and is counted apart, since it says nothing about what the model perceived.
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
# "A dog" and "I hear" begin with no letter of a choice, "A or B" and "A is wrong" do.
_ARTICLE = re.compile(r"[AI]\s+(?!(?:or|and|nor|but|is|isn|because|since|as|seems|does)\b)[^\W\d_]{2}")
_CLAUSE_END = re.compile(r"(?<=[.,;!?])\s+|\n|\s+(?=but\b)")
_CONTRACTED = re.compile(r"(?:is|are|was|were|do|does|did|ca|could|wo|would|should)nt")
_DENIALS = {"no", "not", "never", "neither", "nor", "without", "than", "instead", "except", "cannot"}
_DENIALS_BEHIND = {"not", "wrong", "incorrect", "false", "cannot"}
_VERBS = {"is", "are", "was", "were", "does", "do", "would", "could", "can", "seems", "sounds"}


def parse_answer(reply: str, choices: Sequence[str]) -> str | None:
    """Return the answer of a reply; None if it has none, or an ambiguous one.

    Case, punctuation, white space and the spelling of numbers up to ten do not count. A reply is a choice if
    it is that choice, or if that choice and no other stands in it as whole words and is not denied ("not
    red", "red is wrong"); of overlapping choices ("red", "dark red") the longest counts. Where choices differ
    by nothing but the spelling of a number ("two", "2") or punctuation ("C", "C#") that is told apart; then
    only the marks that end or quote a sentence are passed over.

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
    found = _choices_within([words_of(clause) for clause in _CLAUSE_END.split(reply)], set(spelled))
    return spelled[found.pop()] if len(found) == 1 else None


def parse_letter(reply: str, choices: Sequence[str]) -> str | None:
    """Return the choice that a reply names by its letter, else by its words.

    In this order: a reply that is a letter and nothing else but marks ("b", "(B)", "**B.**"); one that
    begins with a letter and a mark ("B. red", "(b) red") or names it behind "answer", "option" or "choice"
    ("the answer is (B)"); the rule `choice`, on the words of the choices. There is no answer where letters
    and words name different choices, or where another letter stands in the reply ("A) or B)") that is not
    denied ("B, not A"; "B because A is wrong"). The article of "A dog" is no letter, nor is one that
    stands in the words of a choice ("vitamin C").

    Args:
        reply: the model's text.
        choices: the choices in the order of their letters; at most 26.

    Returns:
        The choice as it is spelled in `choices`.
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
"""Every rule by its name."""


def _reader(texts: Sequence[str]) -> Callable[[str], _Words]:
    """Return the most forgiving way to read `texts` that leaves none empty and confuses no two."""
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
    """Whether the mark at `index` stands between two digits, as in 3.5."""
    return 0 < index < len(text) - 1 and text[index - 1].isdigit() and text[index + 1].isdigit()


def _letters_within(text: str, known: str, choices: Sequence[str]) -> dict[int, tuple[str, bool]]:
    """By place, the letters that stand for choices and are not denied, and whether each names an answer."""
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
    """Return the choices in a reply, read from the left, the longest first at each word.

    Empty if one of them is denied.
    """
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
        """Return the words of a clause between two positions that belong to no choice."""
        kept = (place for place in range(start, end) if clause_of[place] == clause and place not in within)
        return " ".join(words[place] for place in kept)

    for start, end in places:
        before = others(clause_of[start], 0, start)
        if _denied(before, others(clause_of[end - 1], end, len(words))):
            return set()
    return {words[start:end] for start, end in places}


def _denied(before: str, after: str) -> bool:
    """Whether what stands between these parts of its clause is denied: `not a dog`, `red is wrong`."""
    behind = _loose_words(after)
    behind = behind[1:] if behind[:1] and behind[0] in _VERBS else behind
    return any(_denies(word, _DENIALS) for word in _loose_words(before)) or any(
        _denies(word, _DENIALS_BEHIND) for word in behind[:1]
    )


def _denies(word: str, denials: Collection[str]) -> bool:
    return word in denials or _CONTRACTED.fullmatch(word) is not None
