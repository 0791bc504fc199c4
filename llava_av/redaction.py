"""Secrets removed from everything that is shown or kept as text.

Servers, proxies and presigned requests have their secrets in addresses, headers and variables, and libraries
put all of these into errors and warnings. `redact` knows them by their form and, if they are in this
process's environment, by their value. Errors for users pass through it when they are made, output when it
is written.
"""

import base64
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TextIO, cast
from urllib.parse import quote, unquote

__all__ = ["redact", "redact_line", "redact_output", "without_password"]

_HIDDEN = "***"
# User and password of an address: everything up to the last @ before the path.
_USERINFO = re.compile(r"(?P<scheme>\b[a-zA-Z][a-zA-Z0-9+.-]*://)[^\s/?#\"'<>`]*@")
_PARAMETER = re.compile(
    r"(?P<name>\bx-amz-(?:signature|security-token)=|\bsignature=|[?&](?:access_token|token|password|sig)=)"
    r"[^\s&\"'<>`]+",
    re.IGNORECASE,
)
_HEADER = re.compile(
    r"(?P<name>\b(?:proxy-)?authorization[\"']?\s*[:=]\s*[b\"']*(?:basic|bearer)\s+"
    r"|\bx-amz-security-token[\"']?\s*:\s*[b\"']*)[^\s\"',]+",
    re.IGNORECASE,
)
# Of variables; those whose names end with _FILE name files.
_SECRET_NAME = re.compile(
    r"(?:PASSWORD|PASSWD|PASSPHRASE|SECRET|(?:^|_)TOKEN|ACCESS_KEY|API_KEY)$", re.IGNORECASE
)
_LOGIN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
# A shorter value may be part of ordinary words; in an address its form gives it away.
_LEAST_LENGTH = 6


def redact(text: str) -> str:
    """Return a text without passwords, tokens and signatures.

    User and password of an address are left out, so that it can still be opened; other secrets become `***`.
    """
    for value in _secret_values(os.environ):
        text = text.replace(value, _HIDDEN)
    text = _USERINFO.sub(r"\g<scheme>", text)
    text = _PARAMETER.sub(rf"\g<name>{_HIDDEN}", text)
    return _HEADER.sub(rf"\g<name>{_HIDDEN}", text)


def redact_line(text: str, most: int = 300) -> str:
    """Return `redact(text)` as one line of at most `most` characters."""
    return redact(" ".join(text.split()))[:most]


def without_password(uri: str) -> str:
    """Return an address without user and password, whatever else it holds."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def redact_output() -> None:
    """Redact all that this process writes to `sys.stdout` and `sys.stderr` from now on.

    This covers results and progress, logging, warnings and tracebacks, also those of libraries. Call it where
    a process begins.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, _Redacting):
            setattr(sys, name, cast(TextIO, _Redacting(stream)))


class _Redacting:
    """A text stream that redacts what is written to it, and passes everything else on to another stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._stream.write(redact(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self._stream.writelines(map(redact, lines))


def _secret_values(variables: Mapping[str, str]) -> list[str]:
    """Return the secrets in variables, in each form in which they may be written; longest first."""
    raw = {value for name, value in variables.items() if _SECRET_NAME.search(name)}
    logins = {userinfo for value in variables.values() if "://" in value for userinfo in _userinfo(value)}
    user, password = (variables.get(name, "") for name in _LOGIN)
    logins |= {f"{user}:{password}"} if password else set()
    for login in logins:
        name, colon, secret = login.partition(":")
        # A token may stand for both.
        raw |= {login, secret if colon else name}
    found = {form for value in raw if len(value) >= _LEAST_LENGTH for form in _forms(value)}
    return sorted(found, key=len, reverse=True)


def _userinfo(value: str) -> Iterator[str]:
    """Yield user and password of an address, even if a / in the password makes the address invalid."""
    rest = value.partition("://")[2]
    authority = rest.partition("/")[0]
    # In a valid address an @ after the authority is part of the path.
    broken = "@" not in authority and ":" in authority and not authority.rpartition(":")[2].isdigit()
    userinfo = (rest if broken else authority).rpartition("@")[0]
    if userinfo:
        yield userinfo
        yield unquote(userinfo)


def _forms(value: str) -> Iterator[str]:
    yield value
    yield quote(value, safe="")
    yield json.dumps(value)[1:-1]
    yield repr(value)[1:-1]
    yield base64.b64encode(value.encode()).decode()
