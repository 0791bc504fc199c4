"""Fetching of the media of requests from listed hosts.

A request must not reach what only the server can reach. So the host of each URL and of each redirect is
compared with a list. It is resolved once per connection, only public addresses are accepted, and the
connection goes to the very address that was checked, while TLS still verifies the name. No proxy of the
environment takes part. The answer to all failures of a connection is the same, whatever the cause.
"""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpcore2
import httpx2

from llava_av.serving.file_threads import finish_in_thread
from llava_av.serving.limits import ServingLimits
from llava_av.serving.media_hosts import HostRefusedError, MediaHosts
from llava_av.serving.public_addresses import public_addresses
from llava_av.serving.request_errors import RequestError, invalid

__all__ = ["LinkedFile", "MediaFetcher"]

_LOG = logging.getLogger(__name__)
_HEADERS = (("Accept", "*/*"), ("Accept-Encoding", "identity"), ("User-Agent", "llava-av"))
_REDIRECTS = 3
"""Maximum redirects of one file."""
_CONNECTING_S = 5.0
"""Time for one address, so that others of the same host are tried too."""
_FAILURES = (
    OSError,
    HostRefusedError,
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.TimeoutException,
)
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a host and port that may be connected to, or raises OSError."""


@dataclass(frozen=True, kw_only=True)
class LinkedFile:
    """A file of a request that is to be fetched."""

    where: str
    """Place in the request, for messages."""
    url: httpx2.URL
    """URL that `MediaHosts` accepted."""
    path: Path
    """File to write."""


class MediaFetcher:
    """Client that fetches files from listed hosts.

    Args:
        hosts: Hosts that files are fetched from.
        limits: Limits of the server.
        resolve: Finds the addresses of a host.
        tls: Certificates that are trusted; by default those of the system, or of `SSL_CERT_FILE`.
    """

    def __init__(
        self,
        hosts: MediaHosts,
        limits: ServingLimits,
        *,
        resolve: Resolve = public_addresses,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.hosts, self._limits = hosts, limits
        self._backend = _ResolvingBackend(resolve)
        self._tls = tls or httpcore2.default_ssl_context()

    async def fetch(self, files: Sequence[LinkedFile]) -> int:
        """Fetch the files of a request one after the other; return their number of bytes.

        Raises:
            RequestError: A file cannot be fetched in time, or exceeds a limit; names its place.
        """
        total, ends_s = 0, asyncio.get_running_loop().time() + self._limits.fetch_s
        async with httpcore2.AsyncConnectionPool(self._tls, network_backend=self._backend) as pool:
            for file in files:
                most = min(self._limits.media_bytes, self._limits.body_bytes - total)
                try:
                    async with asyncio.timeout_at(ends_s):
                        content = await self._content(pool, file, most)
                except _FAILURES as error:
                    _LOG.info("%s cannot be fetched: %s", file.url.host, str(error) or type(error).__name__)
                    within = f"cannot be fetched within {self._limits.fetch_s:g} s"
                    raise _unavailable(file, within) from None
                await finish_in_thread(file.path.write_bytes, content)
                total += len(content)
        return total

    async def _content(self, pool: httpcore2.AsyncConnectionPool, file: LinkedFile, most: int) -> bytearray:
        url = file.url
        for _ in range(_REDIRECTS + 1):
            # only what was checked is passed on, so that no second parser reads the URL
            target = httpcore2.URL(
                scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
            )
            async with pool.stream("GET", target, headers=_HEADERS) as response:
                headers = httpx2.Headers(response.headers)
                if not (300 <= response.status < 400 and "location" in headers):
                    return await _body(response, headers, file, most)
            url = self.hosts.accepted(headers["location"], base=url)
        raise HostRefusedError(f"more than {_REDIRECTS} redirects")


async def _body(
    response: httpcore2.Response, headers: httpx2.Headers, file: LinkedFile, most: int
) -> bytearray:
    """Read the content of an answer, up to `most` bytes."""
    if response.status != 200:
        raise _unavailable(file, f"is answered with status {response.status}")
    encoding = headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise _unavailable(file, f"is sent with the content encoding {encoding[:32]!r}")
    content = bytearray()
    async for chunk in response.aiter_stream():
        content += chunk
        if len(content) > most:
            raise invalid(
                f"{file.where}: the file has more than {most:,} bytes: send a smaller one",
                code="media_too_large",
                param="messages",
            )
    return content


def _unavailable(file: LinkedFile, problem: str) -> RequestError:
    return invalid(
        f"{file.where}: the file at {file.url.host} {problem}: check the URL, or send the file itself",
        code="media_unavailable",
        param="messages",
    )


class _ResolvingBackend(httpcore2.AnyIOBackend):
    """Network whose connections go to addresses that `resolve` returned."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to the first address of a host that answers."""
        failure: Exception = OSError(f"{host} has no address")
        for address in await self._resolve(host, port):
            try:
                return await super().connect_tcp(address, port, _CONNECTING_S, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure
