"""An HTTP proxy that injects faults into the requests and answers of a real server.

It forwards the Host header unchanged, so signatures for the proxy's address are valid. A fault with a limited
number of attempts affects each distinct request that often, so every request of an operation fails first.
"""

import contextlib
import http.client
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

ALWAYS = 1_000_000
_SLOW_BYTES, _SLOW_S = 100, 0.1
_PARAMETERS = ("uploads", "uploadId", "partNumber", "list-type", "continuation-token", "start-after")
_HOP = ("connection", "keep-alive", "transfer-encoding", "content-length")

Answer = tuple[int, list[tuple[str, str]], bytes]


class FaultProxy(ThreadingHTTPServer):
    """HTTP server that forwards to `target` (HOST:PORT); `fail` sets the fault."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = target
        self.fault: Callable[[_Handler, bytes], None] | None = None
        self.attempts = 0
        self.only = ""
        """Part of the address of the requests that get faults or call `between`."""
        self.met: Counter[str] = Counter()
        self.between: Callable[[], object] | None = None
        """Callback when the first part of an object has been read or stored, before the answer."""
        self.stopped = threading.Event()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fail(self, name: str | None, attempts: int = 1) -> None:
        """Inject the fault of this name into the first `attempts` of each distinct request."""
        self.fault = FAULTS[name] if name else None
        self.attempts = attempts
        self.met.clear()

    def take(self, request: str) -> int:
        """Return how often this request had a fault before, or -1 if it no longer gets one."""
        with self._lock:
            if self.fault is None or self.only not in request or self.met[request] >= self.attempts:
                return -1
            self.met[request] += 1
            return self.met[request] - 1

    def handle_error(self, *arguments: object) -> None:
        """Ignore errors of connections, which these tests cause on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultProxy
    number = 0

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query, keep_blank_values=True)
        named = [f"{name}={query[name][0]}" for name in _PARAMETERS if name in query]
        self.number = self.server.take(f"{self.command} {parts.path} {named} {self.headers.get('Range')}")
        slow = self.number >= 0 and self.server.fault is FAULTS["slow"]
        body = self._body(slow)
        if self.number >= 0 and self.server.fault is not None:
            self.server.fault(self, body)
        else:
            answer = self.forwarded(body)
            is_part = self.headers.get("Range") or "partNumber=" in self.path
            if is_part and self.server.only in self.path and self.server.between is not None:
                between, self.server.between = self.server.between, None
                between()
            self.answer(answer)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = do_GET

    @property
    def is_content(self) -> bool:
        """Return whether the request reads or writes an object's content."""
        return self.command in ("PUT", "GET") and "list-type" not in self.path and self.path.count("/") > 1

    def _body(self, slow: bool) -> bytes:
        left, parts = int(self.headers.get("Content-Length") or 0), []
        while left:
            part = self.rfile.read1(min(left, _SLOW_BYTES if slow else 1 << 16))
            if not part:
                raise ConnectionError("the client closed the connection")
            parts.append(part)
            left -= len(part)
            if slow:
                self.server.stopped.wait(_SLOW_S)
        return b"".join(parts)

    def forwarded(self, body: bytes) -> Answer:
        with contextlib.closing(http.client.HTTPConnection(self.server.target, timeout=120)) as connection:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _HOP:
                    connection.putheader(name, value)
            if body or self.command in ("PUT", "POST"):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            kept = [(name, value) for name, value in response.getheaders() if name.lower() not in _HOP]
            length = response.getheader("Content-Length") or "0"
            content = response.read()
            head = [("Content-Length", length if self.command == "HEAD" else str(len(content)))]
            return response.status, kept + head, content

    def answer(self, answer: Answer, *, slow: bool = False) -> None:
        status, headers, body = answer
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD" or not body:
            return
        step = _SLOW_BYTES if slow else len(body)
        for first in range(0, len(body), step):
            self.wfile.write(body[first : first + step])
            if slow and self.server.stopped.wait(_SLOW_S):
                return

    def cut(self, *, reset: bool = False) -> None:
        """Close the connection."""
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.close() if reset else self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *arguments: object) -> None:
        pass


def _error(status: int, code: str, handler: _Handler, body: bytes) -> None:
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>try again</Message></Error>".encode()
    headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(text)))]
    handler.answer((status, headers, text))


def _reset(handler: _Handler, body: bytes) -> None:
    handler.cut(reset=True)


def _stall(handler: _Handler, body: bytes) -> None:
    handler.server.stopped.wait(60)
    handler.cut()


def _slow(handler: _Handler, body: bytes) -> None:
    handler.answer(handler.forwarded(body), slow=True)


def _lost_reply(handler: _Handler, body: bytes) -> None:
    handler.forwarded(body)
    handler.cut()


def _truncated(handler: _Handler, body: bytes) -> None:
    """Truncate the request or the answer, with a matching length at every second attempt."""
    sent = body[: len(body) // 2] if handler.is_content else body
    status, headers, content = handler.forwarded(sent)
    half = content[: len(content) // 2]
    if handler.number % 2 and handler.command != "HEAD":
        headers = [*headers[:-1], ("Content-Length", str(len(half)))]
    handler.answer((status, headers, half))
    handler.cut()


def _wrong_byte(handler: _Handler, body: bytes) -> None:
    """Damage the content of objects; reading the listed objects detects damaged lists."""
    status, headers, content = handler.forwarded(_flipped(body) if handler.is_content else body)
    handler.answer((status, headers, _flipped(content) if handler.is_content else content))


def _other_range(handler: _Handler, body: bytes) -> None:
    """Answer requests for a part of an object with the range after its first byte."""
    status, headers, content = handler.forwarded(body)
    if status == 206:
        headers = [
            (name, re.sub(r"(\d+)-", lambda first: f"{int(first[1]) + 1}-", value, count=1))
            if name == "Content-Range"
            else (name, value)
            for name, value in (*headers[:-1], ("Content-Length", str(len(content) - 1)))
        ]
        content = content[1:]
    handler.answer((status, headers, content))


def _killed_before(handler: _Handler, body: bytes) -> None:
    """Drop this request and all later ones, as if the client had been killed before it."""
    handler.server.only = ""
    handler.cut(reset=True)


def _killed_after(handler: _Handler, body: bytes) -> None:
    """Forward this request and drop all later ones, as if the client had been killed after it."""
    if handler.server.only:
        handler.server.only = ""
        handler.forwarded(body)
    handler.cut(reset=True)


def _no_artifacts(handler: _Handler, body: bytes) -> None:
    """Reject requests for MLflow's artifacts only."""
    refused = (403, [("Content-Length", "17")], b"Permission denied")
    handler.answer(refused if "mlflow-artifacts" in handler.path else handler.forwarded(body))


def _held_shards(handler: _Handler, body: bytes) -> None:
    """Hold the shards of the checkpoint after four steps only."""
    if handler.command == "PUT" and "/step-00000004/state/rank-" in handler.path:
        _stall(handler, body)
    else:
        handler.answer(handler.forwarded(body))


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes((data[middle] ^ 1,)) + data[middle + 1 :] if data else data


FAULTS: dict[str, Callable[[_Handler, bytes], None]] = {
    "500": partial(_error, 500, "InternalError"),
    "503": partial(_error, 503, "SlowDown"),
    "403": partial(_error, 403, "AccessDenied"),
    "expired session": partial(_error, 400, "ExpiredToken"),
    "reset": _reset,
    "stall": _stall,
    "truncated": _truncated,
    "wrong byte": _wrong_byte,
    "other range": _other_range,
    "lost reply": _lost_reply,
    "killed before": _killed_before,
    "killed after": _killed_after,
    "slow": _slow,
    "no artifacts": _no_artifacts,
    "held shards": _held_shards,
}


@contextlib.contextmanager
def fault_proxy(target: str) -> Iterator[FaultProxy]:
    """Run a proxy in front of a server, HOST:PORT, until the block ends."""
    with FaultProxy(target) as proxy:
        threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield proxy
        finally:
            proxy.stopped.set()
            proxy.shutdown()
