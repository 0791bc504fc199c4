"""Access control of the embedded MLflow: its password, and in a browser only its own pages."""

import base64
import hmac
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

__all__ = ["OnlyOwner"]

# A scope or an event of ASGI, whose values depend on its `type`.
_Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[_Event]]
Send = Callable[[_Event], Awaitable[None]]
App = Callable[[_Event, Receive, Send], Awaitable[None]]

# Neither reveals anything, and both are requested before a client has the password.
_OPEN_PATHS = ("/health", "/version")
_LOCAL_NAMES = ("127.0.0.1", "localhost", "[::1]")


class OnlyOwner:
    """ASGI middleware that refuses other local users and other web pages.

    A request must name a loopback host, so that no foreign domain can resolve to this server (DNS rebinding).
    If a web page sends it, the page must belong to this server. And it must carry the password (HTTP Basic),
    which other users of the machine cannot read.
    """

    def __init__(self, app: App, user: str, password: str) -> None:
        """Protect an app with a user name and a password."""
        self._app = app
        self._expected = b"Basic " + base64.b64encode(f"{user}:{password}".encode())

    async def __call__(self, scope: _Event, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 401 or 403."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif (refusal := self._refusal(scope["path"], dict(scope["headers"]))) is None:
            await self._app(scope, receive, send)
        else:
            await _refuse(send, *refusal)

    def _refusal(self, path: str, headers: Mapping[bytes, bytes]) -> tuple[int, str] | None:
        host = headers.get(b"host", b"").decode("latin-1")
        if _without_port(host) not in _LOCAL_NAMES:
            return 403, "this MLflow accepts requests to a loopback address only"
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and origin != f"http://{host}":
            return 403, "this MLflow refuses requests from pages of other sites"
        given = headers.get(b"authorization", b"")
        if path not in _OPEN_PATHS and not hmac.compare_digest(given, self._expected):
            return 401, "user and password are in credentials.json of the state folder"
        return None


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


async def _refuse(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain")]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="MLflow"'))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{text}\n".encode()})
