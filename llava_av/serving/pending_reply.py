"""A reply while it is generated, for one task of the event loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from llava_av.model import Encoded
from llava_av.serving.engine import (
    EngineEndedError,
    ReplyEnd,
    ReplyEngine,
    ReplyEvent,
    ReplyFailure,
    ReplyPiece,
    Sampling,
)
from llava_av.serving.metrics import ServingMetrics
from llava_av.serving.request_errors import engine_failed, timed_out

__all__ = ["PendingReply"]


class PendingReply:
    """Events of one request of an engine.

    Args:
        engine: Engine that generates the reply.
        prompt: Encoded prompt.
        sampling: Settings of the request.
        received_s: Time at which the request arrived, of the event loop's clock.
        limit_s: Seconds from `received_s` within which the reply must end.
        metrics: Metrics of the server.

    Raises:
        RequestError: The engine has ended.
    """

    def __init__(
        self,
        engine: ReplyEngine,
        prompt: Encoded,
        sampling: Sampling,
        *,
        received_s: float,
        limit_s: float,
        metrics: ServingMetrics,
    ) -> None:
        self.prompt_tokens = len(prompt.input_ids)
        self._received_s, self._limit_s, self._metrics = received_s, limit_s, metrics
        self._events: asyncio.Queue[ReplyEvent] = asyncio.Queue()
        self._engine, self._loop = engine, asyncio.get_running_loop()
        self._begun_s = self._loop.time()
        try:
            self._number = engine.submit(prompt, sampling, self._deliver)
        except EngineEndedError:
            raise engine_failed() from None

    def _deliver(self, event: ReplyEvent) -> None:
        # the loop may be closed: nobody waits for the event then
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def cancel(self) -> None:
        """End the generation, if it has not ended."""
        self._engine.cancel(self._number)

    async def events(self) -> AsyncIterator[ReplyPiece | ReplyEnd]:
        """Yield the pieces of the reply, and its end.

        Raises:
            RequestError: The reply takes too long, or the engine failed.
        """
        is_first = True
        while True:
            event = await self._next()
            if isinstance(event, ReplyFailure):
                raise engine_failed()
            now_s = self._loop.time()
            if is_first:
                self._metrics.first_text(now_s - self._received_s)
            is_first = False
            if isinstance(event, ReplyEnd):
                self._metrics.replied(self.prompt_tokens, event.completion_tokens, now_s - self._begun_s)
                yield event
                return
            yield event

    async def _next(self) -> ReplyEvent:
        try:
            async with asyncio.timeout_at(self._received_s + self._limit_s):
                return await self._events.get()
        except TimeoutError:
            raise timed_out(self._limit_s) from None
