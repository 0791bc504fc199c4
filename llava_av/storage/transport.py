"""HTTP transport of the minio client: each request is sent once and answered completely, or it fails.

A socket's timeout limits only the wait for the next byte, so a server that sends one byte at a time could
hold a request forever. Here a request that transfers fewer bytes per window than the floor is aborted, in
both directions. urllib3 sends a body under the timeout for connecting; here sending has the timeout of the
window.
"""

import io
import os
import time
from typing import Any
from xml.etree import ElementTree

import certifi
import urllib3
from urllib3 import exceptions
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

__all__ = ["FLOOR_BYTES_PER_S", "DamagedAnswer", "TooSlow", "WholePool"]

FLOOR_BYTES_PER_S = 2048
_CONNECT_S = 3.0
_SLICE_BYTES = 1 << 16
_COMPLETING = 10


class TooSlow(exceptions.TimeoutError):
    """A transfer stayed below `FLOOR_BYTES_PER_S` for a whole window."""


class DamagedAnswer(exceptions.HTTPError):
    """Response that was damaged in transit."""


class _Floor:
    """Counter of the bytes that a transfer moves, window by window."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._began = time.monotonic()
        self._count = 0

    def moved(self, count: int) -> None:
        self._count += count
        spent_s = time.monotonic() - self._began
        if spent_s < self._window_s:
            return
        if self._count < FLOOR_BYTES_PER_S * spent_s:
            raise TooSlow(f"{self._count} bytes in {spent_s:.0f} s")
        self._began, self._count = time.monotonic(), 0


class _PacedSends:
    """Connection mixin that sends in slices, each within a window."""

    window_s: float
    sock: Any

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self.sock.settimeout(self.window_s)

    def send(self, data: Any) -> None:
        if self.sock is not None:
            # urllib3 sets the timeout for connecting before each request on an open connection.
            self.sock.settimeout(self.window_s)
        if not isinstance(data, bytes):
            super().send(data)  # type: ignore[misc]
            return
        floor = _Floor(self.window_s)
        for first in range(0, len(data), _SLICE_BYTES):
            part = data[first : first + _SLICE_BYTES]
            super().send(part)  # type: ignore[misc]
            floor.moved(len(part))


def _paced(pool: type[HTTPConnectionPool], window_s: float) -> type[HTTPConnectionPool]:
    connection = type("PacedConnection", (_PacedSends, pool.ConnectionCls), {"window_s": window_s})
    return type("PacedConnectionPool", (pool,), {"ConnectionCls": connection})


class WholePool(urllib3.PoolManager):
    """Connections whose answers are in memory when `urlopen` returns; callers limit their size by ranges."""

    def __init__(self, window_s: float, connections: int) -> None:
        """Keep up to `connections` open, and abort transfers that are too slow for `window_s` seconds."""
        super().__init__(
            maxsize=connections,
            timeout=urllib3.Timeout(connect=min(_CONNECT_S, window_s), read=window_s),
            cert_reqs="CERT_REQUIRED",
            ca_certs=os.environ.get("SSL_CERT_FILE") or certifi.where(),
        )
        self._window_s = window_s
        self.pool_classes_by_scheme = {
            "http": _paced(HTTPConnectionPool, window_s),
            "https": _paced(HTTPSConnectionPool, window_s),
        }

    def urlopen(  # type: ignore[override]
        self, method: str, url: str, redirect: bool = True, **options: Any
    ) -> urllib3.BaseHTTPResponse:
        """Send a request once and read its answer.

        Raises:
            urllib3.exceptions.HTTPError: There is no complete answer.
        """
        options |= {"preload_content": False, "retries": False}
        response = super().urlopen(method, url, redirect, **options)
        try:
            # A server that completes a large upload sends blanks for minutes to keep the connection alive.
            body = self._read(response, self._window_s * (_COMPLETING if method == "POST" else 1))
        except BaseException:
            response.close()
            raise
        response.release_conn()
        return urllib3.HTTPResponse(
            io.BytesIO(body),
            headers=response.headers,
            status=response.status,
            reason=response.reason,
            request_method=method,
        )

    def _read(self, response: urllib3.BaseHTTPResponse, window_s: float) -> bytes:
        floor, parts = _Floor(window_s), []
        while part := response.read1(_SLICE_BYTES, decode_content=False):
            parts.append(part)
            floor.moved(len(part))
        body = b"".join(parts)
        _require_xml(response, body)
        return body


def _require_xml(response: urllib3.BaseHTTPResponse, body: bytes) -> None:
    """Refuse a truncated answer of the S3 interface; the content of an object has an entity tag."""
    is_xml = "xml" in response.headers.get("Content-Type", "") and "ETag" not in response.headers
    if body and is_xml and response.status < 300:
        try:
            ElementTree.fromstring(body)
        except ElementTree.ParseError as error:
            raise DamagedAnswer(f"incomplete XML: {error}") from error
