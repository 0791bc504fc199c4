"""Answers in the form of OpenAI's chat completions: whole, or as server-sent events."""

import json
import time
import uuid
from collections.abc import AsyncIterator

from llava_av.serving.engine import ReplyEnd, ReplyPiece
from llava_av.serving.pending_reply import PendingReply
from llava_av.serving.request_errors import RequestError
from llava_av.serving.served_model import ModelIdentity

__all__ = ["Completion", "new_request_id"]

_DONE = "data: [DONE]\n\n"


def new_request_id() -> str:
    """Return an ID that no other request has."""
    return f"chatcmpl-{uuid.uuid4().hex}"


class Completion:
    """The answer to one request.

    Args:
        request_id: ID of the request.
        identity: Model that answers.
        reply: Its reply.
    """

    def __init__(self, request_id: str, identity: ModelIdentity, reply: PendingReply) -> None:
        self._reply = reply
        self._head = {
            "id": request_id,
            "created": int(time.time()),
            "model": identity.name,
            "system_fingerprint": identity.fingerprint,
        }

    async def whole(self) -> dict[str, object]:
        """Return the answer when the reply has ended.

        Raises:
            RequestError: See `PendingReply.events`.
        """
        text = ""
        async for event in self._reply.events():
            if isinstance(event, ReplyPiece):
                text += event.text
                continue
            message = {"role": "assistant", "content": text, "refusal": None}
            choice = {"index": 0, "message": message, "finish_reason": event.reason, "logprobs": None}
            return {
                **self._head,
                "object": "chat.completion",
                "choices": [choice],
                "usage": self._usage(event),
            }
        raise AssertionError("a reply ends with ReplyEnd or an error")

    async def stream(self, *, include_usage: bool) -> AsyncIterator[str]:
        """Yield the answer as server-sent events; an error after the first is an event too."""
        try:
            yield self._chunk({"role": "assistant", "content": ""})
            async for event in self._reply.events():
                if isinstance(event, ReplyPiece):
                    yield self._chunk({"content": event.text})
                    continue
                yield self._chunk({}, finish_reason=event.reason)
                if include_usage:
                    yield self._event({"choices": [], "usage": self._usage(event)})
        except RequestError as error:
            yield _event(error.body())
        yield _DONE

    def _chunk(self, delta: dict[str, str], finish_reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        return self._event({"choices": [choice]})

    def _event(self, content: dict[str, object]) -> str:
        return _event({**self._head, "object": "chat.completion.chunk", **content})

    def _usage(self, end: ReplyEnd) -> dict[str, int]:
        prompt, reply = self._reply.prompt_tokens, end.completion_tokens
        return {"prompt_tokens": prompt, "completion_tokens": reply, "total_tokens": prompt + reply}


def _event(content: dict[str, object]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
