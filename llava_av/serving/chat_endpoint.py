"""`POST /v1/chat/completions`: from the body of a request to its answer.

The endpoint is an ASGI application, so that one coroutine spans a request: it keeps the model until the last
event is sent, and frees its place in the batch however the request ends.
"""

import asyncio
import tempfile
from collections.abc import Coroutine, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from llava_av.documents import problem_text
from llava_av.media.clip import Clip
from llava_av.model import Encoded
from llava_av.serving.chat_request import ChatRequest
from llava_av.serving.completions import Completion, new_request_id
from llava_av.serving.conversation import AskedConversation, read_conversation
from llava_av.serving.current_model import CurrentModel
from llava_av.serving.engine import Sampling
from llava_av.serving.file_threads import finish_in_thread
from llava_av.serving.limits import ServingLimits
from llava_av.serving.media_fetcher import LinkedFile, MediaFetcher
from llava_av.serving.metrics import ServingMetrics
from llava_av.serving.pending_reply import PendingReply
from llava_av.serving.request_errors import RequestError, invalid, model_missing, timed_out
from llava_av.serving.served_model import ServedModel

__all__ = ["ChatEndpoint"]

_Result = TypeVar("_Result")
_JSON = "application/json"
_STRUCTURE = 10_000
"""Commas of a body outside its text: more than `messages` and `media` can need."""
_MAX_FIELD = 200
"""Characters of the name of a field in an error."""
_SENDING_S = 30.0
"""Time that a slow client gets to read the end of a stream."""


class ChatEndpoint:
    """Endpoint of chat completions.

    Args:
        current: Model that answers.
        limits: Limits of the server.
        fetcher: Client for media that requests name by URL.
        metrics: Metrics of the server.
    """

    def __init__(
        self, current: CurrentModel, limits: ServingLimits, fetcher: MediaFetcher, metrics: ServingMetrics
    ) -> None:
        self._current, self._limits, self._fetcher, self._metrics = current, limits, fetcher, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; a client that leaves ends it."""
        received_s = asyncio.get_running_loop().time()
        asked = await _parsed(Request(scope, receive), self._limits)
        with self._current.use() as model:
            try:
                async with asyncio.timeout_at(received_s + self._limits.request_s + _SENDING_S):
                    await self._answer(asked, model, received_s, scope, receive, send)
            except (_ClientGoneError, TimeoutError):
                # `TimeoutError`: the client does not read the answer; without its end the connection closes
                return

    async def _answer(
        self,
        asked: ChatRequest,
        model: ServedModel,
        received_s: float,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        request_id = new_request_id()
        try:
            async with asyncio.timeout_at(received_s + self._limits.request_s):
                prompt, sampling = await _unless_gone(receive, self._prepare(asked, model, request_id))
        except TimeoutError:
            raise timed_out(self._limits.request_s) from None
        # no `await` may come before `try`: a request that is cancelled there would keep its place
        reply = PendingReply(
            model.engine,
            prompt,
            sampling,
            received_s=received_s,
            limit_s=self._limits.request_s,
            metrics=self._metrics,
        )
        try:
            completion = Completion(request_id, model.identity, reply)
            response: Response
            if asked.stream:
                usage = asked.stream_options is not None and asked.stream_options.include_usage
                events = completion.stream(include_usage=usage)
                response = StreamingResponse(events, media_type="text/event-stream")
                response.headers["Cache-Control"] = "no-store"
            else:
                response = JSONResponse(await _unless_gone(receive, completion.whole()))
            response.headers.update({"X-Request-ID": request_id, **model.identity.headers()})
            await response(scope, receive, send)
        finally:
            reply.cancel()

    async def _prepare(
        self, asked: ChatRequest, model: ServedModel, request_id: str
    ) -> tuple[Encoded, Sampling]:
        """Decode and encode a request; return its prompt, and how its reply is sampled."""
        if asked.model != model.identity.name:
            raise model_missing(asked.model, model.identity.name)
        with tempfile.TemporaryDirectory(prefix="llava-av-request-") as folder:
            conversation = await finish_in_thread(
                read_conversation,
                asked,
                Path(folder),
                self._limits,
                self._fetcher.hosts,
                model.special_tokens,
                request_id,
            )
            if conversation.linked:
                await self._fetch(conversation.linked)
            clip = await self._decoded(conversation, model)
        prompt, reply_tokens = await asyncio.to_thread(model.encode, conversation, clip, asked.reply_tokens)
        sampling = Sampling(
            max_tokens=reply_tokens,
            temperature=asked.temperature,
            top_p=asked.top_p,
            seed=asked.seed,
            stop=asked.stop,
        )
        return prompt, sampling

    async def _fetch(self, files: Sequence[LinkedFile]) -> None:
        try:
            self._metrics.fetched(len(files), await self._fetcher.fetch(files))
        except RequestError:
            self._metrics.fetch_failed()
            raise

    async def _decoded(self, conversation: AskedConversation, model: ServedModel) -> Clip:
        if conversation.media is None:
            return Clip()
        clip = await model.decode(conversation.media)
        self._metrics.decoded(clip, model.sample_rate_hz)
        return clip


class _ClientGoneError(Exception):
    """The client closed the connection."""


async def _parsed(request: Request, limits: ServingLimits) -> ChatRequest:
    """Parse the body; the type is required, because web pages can send any other one without asking."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != _JSON:
        raise RequestError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"content type {given!r} is not {_JSON}: set the Content-Type header",
            code="unsupported_content_type",
        )
    return await asyncio.to_thread(_validated, await request.body(), limits)


def _validated(body: bytes, limits: ServingLimits) -> ChatRequest:
    """Validate a body; each comma may begin a value or an error, which need many times its memory."""
    most = limits.characters // 2 + _STRUCTURE
    if (commas := body.count(b",")) > most:
        raise invalid(
            f"the body has {commas:,} commas, must be ≤ {most:,}: send fewer values or less text",
            code="too_many_values",
        )
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            problem = first["msg"].removeprefix("Invalid JSON: ")
            raise invalid(f"the body is not JSON: {problem}", code="invalid_json") from None
        if not first["loc"]:
            raise invalid("the body is not a JSON object: send one", code="invalid_json") from None
        field = ".".join(map(str, first["loc"]))[:_MAX_FIELD]
        raise invalid(problem_text(ChatRequest, error), param=field) from None


async def _unless_gone(receive: Receive, work: Coroutine[Any, Any, _Result]) -> _Result:
    """Return the result of work; cancel it if the client closes the connection."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise _ClientGoneError
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
