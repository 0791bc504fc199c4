"""Interface of an engine: prompts in, streams of text out, many at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from llava_av.model import Encoded

__all__ = [
    "Deliver",
    "EngineEndedError",
    "ReplyEnd",
    "ReplyEngine",
    "ReplyEvent",
    "ReplyFailure",
    "ReplyPiece",
    "Sampling",
]


class EngineEndedError(Exception):
    """An engine that is closed or has failed, and generates nothing any more."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the tokens of one reply are chosen, and where it ends."""

    max_tokens: int
    """Maximum tokens of the reply."""
    temperature: float = 0.0
    """Divisor of the logits; 0 chooses the most likely token."""
    top_p: float = 1.0
    """Probability of the most likely tokens that are sampled from."""
    seed: int | None = None
    """Seed of the reply's own random numbers; None for a random one."""
    stop: tuple[str, ...] = ()
    """Texts that end the reply and are not part of it."""


@dataclass(frozen=True, kw_only=True)
class ReplyPiece:
    """Further text of a reply."""

    text: str


@dataclass(frozen=True, kw_only=True)
class ReplyEnd:
    """End of a reply."""

    reason: Literal["stop", "length"]
    """`stop` if the model or a stop text ended the reply, `length` at `max_tokens`."""
    completion_tokens: int
    """Tokens generated, including the end token."""


@dataclass(frozen=True, kw_only=True)
class ReplyFailure:
    """Error that ended a reply."""

    error: Exception


ReplyEvent = ReplyPiece | ReplyEnd | ReplyFailure
Deliver = Callable[[ReplyEvent], None]
"""Receives the events of one reply in order, in the engine's thread; must not block."""


class ReplyEngine(Protocol):
    """Generates replies to several prompts at a time."""

    context: int
    """Maximum tokens of a prompt and its reply."""

    def submit(self, prompt: Encoded, sampling: Sampling, deliver: Deliver) -> int:
        """Queue a prompt; return the number that `cancel` takes.

        `deliver` receives pieces, then a `ReplyEnd` or `ReplyFailure`; after `cancel`, possibly nothing more.
        If the engine ends for any reason, each request gets a `ReplyFailure` at once.

        Raises:
            EngineEndedError: The engine has ended.
        """

    def cancel(self, request: int) -> None:
        """End a request before the next step; one that has ended is ignored."""

    def is_alive(self) -> bool:
        """Return whether the engine can still generate."""

    def load(self) -> tuple[int, int]:
        """Return the numbers of requests that wait and that are in the batch."""

    def close(self) -> None:
        """End all requests and free the engine's memory."""
