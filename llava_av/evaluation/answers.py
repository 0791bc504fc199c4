"""What a model replied, which choice that is, and whether it is right."""

import math
import re
import unicodedata
from collections.abc import Callable, Sequence

from pydantic import BaseModel, ConfigDict

from llava_av.datasets.schema import family
from llava_av.errors import UserError

__all__ = ["EvaluationError", "Prediction", "parse_answer", "score"]

_Words = tuple[str, ...]
_APOSTROPHES = re.compile(r"['’`´]")
_SENTENCE_MARKS = ".,;:!?…\"'“”‘’`()[]{}<>*_"


class EvaluationError(UserError):
    """Predictions that cannot be judged: of a model that diverged, or not of the same questions."""


class Prediction(BaseModel):
    """One question under one ablation: one line of `predictions.jsonl`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    id: str
    """Id of the sample."""
    ablation: str
    """Name of the ablation under which the model was asked."""
    kind: str
    """Kind of the question, such as `joint_colour`; `all` in a user's own dataset."""
    question: str
    """The question as a reader sees it, without placeholders."""
    choices: tuple[str, ...] = ()
    """The allowed answers; empty for an open question."""
    answer: str
    """The right answer."""
    reply: str
    """The model's text, as generated."""
    parsed: str | None
    """The answer found in `reply`; None if there is none."""
    correct: bool
    """Whether `parsed` is `answer`."""
    loss: float
    """Mean negative log-likelihood of the right answer's tokens, in nats a token."""
    clip: str | None = None
    """Path of the clip within the dataset; None for a sample without media."""

    @property
    def family(self) -> str:
        """The family of `kind`."""
        return family(self.kind)

    def to_json_line(self) -> str:
        """The prediction as one line of JSON with its newline."""
        return self.model_dump_json() + "\n"


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


def score(
    *,
    sample_id: str,
    ablation: str,
    kind: str,
    question: str,
    choices: Sequence[str],
    answer: str,
    reply: str,
    loss: float,
    clip: str | None,
) -> Prediction:
    """Judges one reply; the arguments are the fields of `Prediction`.

    Raises:
        EvaluationError: the loss is not finite.
    """
    if not math.isfinite(loss):
        raise EvaluationError(
            f"sample {sample_id}, {ablation}: the loss of the right answer is {loss}: the model diverged; "
            "train it again with a lower optimizer.learning_rate"
        )
    parsed = parse_answer(reply, choices)
    words_of = _reader(choices or (answer,))
    return Prediction(
        id=sample_id,
        ablation=ablation,
        kind=kind,
        question=question,
        choices=tuple(choices),
        answer=answer,
        reply=reply,
        parsed=parsed,
        correct=parsed is not None and words_of(parsed) == words_of(answer),
        loss=loss,
        clip=clip,
    )


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
