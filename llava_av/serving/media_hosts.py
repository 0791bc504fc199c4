"""Hosts that the server fetches media from, and the check of a URL against them."""

import re
from collections.abc import Iterable

import httpx2

from llava_av.errors import UserError

__all__ = ["HostRefusedError", "MediaHosts"]

_PORTS = {"https": 443, "http": 80}
_NAME = re.compile(r"[a-z0-9._:-]+")
_Origin = tuple[str, str, int]
"""Scheme, host and port."""


class HostRefusedError(Exception):
    """A URL from which nothing is fetched."""


class MediaHosts:
    """Hosts that operators list; a URL must match the scheme, name and port of one exactly.

    Args:
        entries: `HOST` or `HOST:PORT` for HTTPS; `http://HOST` or `http://HOST:PORT` for HTTP.

    Raises:
        UserError: An entry is not of this form.
    """

    def __init__(self, entries: Iterable[str] = ()) -> None:
        self._origins = frozenset(map(_listed, entries))

    def __bool__(self) -> bool:
        return bool(self._origins)

    def accepted(self, address: str, *, base: httpx2.URL | None = None) -> httpx2.URL:
        """Parse a URL of a listed host; return it with its host in lower case and in ASCII.

        Args:
            address: The URL.
            base: URL to which it may be relative.

        Raises:
            HostRefusedError: It is no HTTP or HTTPS URL, names a user, or its host is not listed.
        """
        try:
            url = httpx2.URL(address) if base is None else base.join(address)
        except (httpx2.InvalidURL, ValueError) as error:
            raise HostRefusedError(str(error)) from None
        if url.userinfo:
            raise HostRefusedError("the URL names a user")
        if _origin(url) not in self._origins:
            raise HostRefusedError(f"{url.scheme}://{url.netloc.decode()} is not in the list of hosts")
        return url


def _listed(entry: str) -> _Origin:
    try:
        url = httpx2.URL(entry if "://" in entry else f"https://{entry}")
    except httpx2.InvalidURL:
        url = httpx2.URL()
    scheme, host, port = origin = _origin(url)
    is_origin = scheme in _PORTS and url == httpx2.URL(f"{scheme}://{url.netloc.decode()}")
    if not (is_origin and _NAME.fullmatch(host) and 0 < port < 2**16):
        raise UserError(
            f"--media-host {entry}: must be the exact name of a host: give HOST, HOST:PORT, or "
            "http://HOST to allow HTTP without TLS"
        )
    return origin


def _origin(url: httpx2.URL) -> _Origin:
    """Return scheme, host and port of a URL; without a port, the default one of its scheme."""
    port = _PORTS.get(url.scheme, 0) if url.port is None else url.port
    return url.scheme, url.raw_host.decode("ascii"), port
