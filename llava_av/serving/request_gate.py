"""Checks of a request before its body is parsed: host, key, number of requests, and size of the body.

The body is read here, within its limits, because a framework that reads it first has no limit.
"""

import asyncio
import time
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llava_av.serving.api_keys import ApiKeys
from llava_av.serving.http_server import LOOPBACK_HOSTS
from llava_av.serving.limits import ServingLimits
from llava_av.serving.metrics import ServingMetrics
from llava_av.serving.request_errors import RequestError

__all__ = ["RequestGate"]

_API = "/v1/"
_RETRY_S = 1
_GONE = 499
"""Status in the metrics of a request whose client left, as in nginx."""


class RequestGate:
    """Middleware in front of the API.

    Args:
        app: Application behind it.
        keys: Accepted keys; without keys, the request must name a loopback host, so that no web page can
            reach the server through a name of its own.
        limits: Limits of the server.
        metrics: Metrics of the server.
    """

    def __init__(
        self, app: ASGIApp, *, keys: ApiKeys | None, limits: ServingLimits, metrics: ServingMetrics
    ) -> None:
        self._app, self._keys, self._limits, self._metrics = app, keys, limits, metrics
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request that all checks accept; answer any other one."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), _GONE

        async def recorded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        is_api = scope["path"].startswith(_API)
        try:
            await self._passed(scope, receive, recorded, is_api)
        except ClientDisconnect:
            return
        except RequestError as error:
            # what is left of the body is not read
            headers = {"Connection": "close", **error.headers}
            await JSONResponse(error.body(), error.status, headers)(scope, receive, recorded)
        finally:
            if is_api:
                self._metrics.answered(status, time.monotonic() - started)

    async def _passed(self, scope: Scope, receive: Receive, send: Send, is_api: bool) -> None:
        self._require_host(Headers(scope=scope))
        if not is_api:
            await self._app(scope, receive, send)
            return
        self._require_key(Headers(scope=scope))
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        self._require_room()
        self._open += 1
        try:
            await self._app(scope, await self._with_body(scope, receive), send)
        finally:
            self._open -= 1

    def _require_host(self, headers: Headers) -> None:
        if self._keys is not None:
            return
        host = _host_name(headers.get("host", ""))
        if host not in LOOPBACK_HOSTS:
            raise RequestError(
                HTTPStatus.FORBIDDEN,
                f"host {host!r}: without --api-keys, this server answers only as {', '.join(LOOPBACK_HOSTS)}",
                code="host_not_allowed",
            )

    def _require_key(self, headers: Headers) -> None:
        if self._keys is not None and not self._keys.accepts(headers.get("authorization", "")):
            raise RequestError(
                HTTPStatus.UNAUTHORIZED,
                "the API key is missing or not valid: send it as a bearer token in the Authorization header",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _require_room(self) -> None:
        most = self._limits.batch + self._limits.queued
        if self._open >= most:
            raise RequestError(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"the server is busy with {most} requests, its maximum: try again later",
                code="queue_full",
                headers={"Retry-After": str(_RETRY_S)},
            )

    async def _with_body(self, scope: Scope, receive: Receive) -> Receive:
        """Read the body; return a `receive` that has it as one message.

        Raises:
            RequestError: The body is too large, or does not arrive in time.
            ClientDisconnect: The client closed the connection before the end of the body.
        """
        stated = Headers(scope=scope).get("content-length", "0")
        self._require_size(int(stated) if stated.isdecimal() else 0)
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(self._limits.body_s):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    body += message.get("body", b"")
                    self._require_size(len(body))
                    more = message.get("more_body", False)
        except TimeoutError:
            raise RequestError(
                HTTPStatus.REQUEST_TIMEOUT,
                f"the body did not arrive within {self._limits.body_s:g} s: send less, or try again",
                code="body_timeout",
            ) from None
        waiting: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            return waiting.pop() if waiting else await receive()

        return replay

    def _require_size(self, size: int) -> None:
        if size > self._limits.body_bytes:
            raise RequestError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the body has more than {self._limits.body_bytes:,} bytes: send less",
                code="body_too_large",
            )


def _host_name(header: str) -> str | None:
    """Return the host of a Host header without its port; None if it is missing or malformed."""
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:
        return None
