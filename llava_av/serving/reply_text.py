"""Text of a reply while its tokens arrive: whole characters only, and nothing from a stop text on.

A character may consist of several tokens, and the space before a word may depend on the token before it. So
new text is the difference between two decodings from the same earlier token, and is passed on when it is
complete. Text that may be the beginning of a stop text waits until that is decided.
"""

from collections.abc import Sequence
from typing import Any

__all__ = ["ReplyText"]

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class ReplyText:
    """Text of one reply.

    Args:
        tokenizer: Tokenizer of the model.
        stop: Texts that end the reply.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._tokens: list[int] = []
        self._start = self._read = 0
        self._waiting = ""
        self.stopped = False
        """True after a stop text."""

    def add(self, token: int) -> str:
        """Add a token; return the text that can be passed on, often none."""
        self._tokens.append(token)
        before = self._decoded(self._start, self._read)
        now = self._decoded(self._start, len(self._tokens))
        if now.endswith(_INCOMPLETE) or len(now) <= len(before):
            return ""
        self._start, self._read = self._read, len(self._tokens)
        return self._released(now[len(before) :])

    def end(self) -> str:
        """Return the rest of the text after the last token."""
        if self.stopped:
            return ""
        before = self._decoded(self._start, self._read)
        rest = self._decoded(self._start, len(self._tokens))[len(before) :]
        text = self._released(rest)
        return text + self._waiting

    def _decoded(self, start: int, stop: int) -> str:
        text: str = self._tokenizer.decode(self._tokens[start:stop], skip_special_tokens=True)
        return text

    def _released(self, text: str) -> str:
        """Return the text up to a stop text, or up to where one may begin."""
        text = self._waiting + text
        found = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if found:
            self.stopped, self._waiting = True, ""
            return text[: min(found)]
        kept = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._waiting = text[len(text) - kept :]
        return text[: len(text) - kept]


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of a text that is a beginning of the stop text."""
    return next(
        (size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0
    )
