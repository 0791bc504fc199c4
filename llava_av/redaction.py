"""Redaction: secrets are removed from all text that is shown or stored.

Servers, proxies and presigned requests carry secrets in URLs, headers and variables, and libraries quote all
of these in errors and warnings. `redact` recognizes secrets by their form and, if they are in this process's
environment, by their value. User errors pass through it when they are created, output when it is written.
"""

import atexit
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
# User and password of a URL: everything up to the last @ before the path. A password with an unquoted /, ?
# or # ends the authority too early: it is recognized by text after the colon that is not a port number.
_USERINFO = re.compile(
    r"(?P<scheme>\b[a-zA-Z][a-zA-Z0-9+.-]*://)"
    r"(?:[^\s/?#\"'<>`]*@|[^\s/?#\"'<>`@:\[\]]+:(?!\d*[/?#])[^\s\"'<>`]*@)"
)
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
# The end of a text in which a secret may have started: an address, a parameter of one, or a header.
_UNFINISHED = re.compile(
    r"(?:\b[a-zA-Z][a-zA-Z0-9+.-]*:/(?:/[^\s\"'<>`]*)?"
    r"|\b(?:https?|s3|ftp|socks5h?|mysql|postgres|postgresql):?"
    r"|\b(?:x-amz-[a-z-]*|signature)=[^\s&\"'<>`]*"
    r"|\b(?:proxy-)?authorization[\"']?\s*[:=]?\s*[b\"']*(?:\w*|(?:basic|bearer)\s+[^\s\"',]*)"
    r"|\bx-amz-security-token[\"']?\s*:\s*[b\"']*[^\s\"',]*)\Z",
    re.IGNORECASE,
)
_KEYWORDS = ("authorization", "proxy-authorization", "signature", "x-amz-security-token", "x-amz-signature")
_MAX_UNFINISHED = 2_000
"""Characters in which the start of an unfinished secret is searched."""
# Names of variables with secrets; those that end with _FILE name files instead.
_SECRET_NAME = re.compile(
    r"(?:PASSWORD|PASSWD|PASSPHRASE|SECRET|(?:^|_)TOKEN|ACCESS_KEY|API_KEY)$", re.IGNORECASE
)
_LOGIN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
# Shorter values occur in ordinary words; in URLs they are recognized by their form.
_MIN_LENGTH = 6


def redact(text: str) -> str:
    """Remove passwords, tokens and signatures from a text.

    User and password are cut out of URLs, which can still be opened then; other secrets become `***`.
    """
    for value in _secret_values(os.environ):
        text = text.replace(value, _HIDDEN)
    text = _USERINFO.sub(r"\g<scheme>", text)
    text = _PARAMETER.sub(rf"\g<name>{_HIDDEN}", text)
    return _HEADER.sub(rf"\g<name>{_HIDDEN}", text)


def redact_line(text: str, max_characters: int = 300) -> str:
    """Redact a text and shorten it to one line of at most `max_characters`."""
    return redact(" ".join(text.split()))[:max_characters]


def without_password(uri: str) -> str:
    """Remove user and password from a URL."""
    return _USERINFO.sub(r"\g<scheme>", uri)


def redact_output() -> None:
    """Redact everything that this process writes to `sys.stdout` and `sys.stderr` from now on.

    This covers results, log lines, warnings and tracebacks, including those of libraries. Call it when a
    process starts.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, _RedactedStream):
            redacted = _RedactedStream(stream)
            setattr(sys, name, cast(TextIO, redacted))
            atexit.register(redacted.release)


class _RedactedStream:
    """A text stream that redacts what is written to it and passes everything else on to another stream.

    A secret may arrive in several writes. The end of a write that may be the start of a secret is therefore
    held back until the next write or the end of the process.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._held = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        whole, self._held = self._held + text, ""
        end = len(whole) - _partial_secret(whole)
        # Redacted first, since a form may seem to start within a whole secret.
        shown = redact(whole[:end])
        length = len(shown) - _partial_form(shown)
        self._held = shown[length:] + whole[end:]
        self._stream.write(shown[:length])
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def release(self) -> None:
        """Write what is held back."""
        held, self._held = self._held, ""
        if held and not self._stream.closed:
            self._stream.write(redact(held))
            self._stream.flush()


def _partial_secret(text: str) -> int:
    """Return the length of the longest end of a text with which a secret of the environment starts."""
    return _longest_start(text, _secret_values(os.environ))


def _longest_start(text: str, wholes: Iterable[str]) -> int:
    """Return the length of the longest end of a text that is the start of another text, not all of it."""
    return max(
        (
            length
            for whole in wholes
            for length in range(1, min(len(whole), len(text) + 1))
            if text.endswith(whole[:length])
        ),
        default=0,
    )


def _partial_form(text: str) -> int:
    """Return the length of the end of a text that may be the start of a secret of a known form."""
    found = _UNFINISHED.search(text, max(0, len(text) - _MAX_UNFINISHED))
    keyword = _longest_start(text.lower(), _KEYWORDS)
    return max(keyword, len(text) - found.start() if found else 0)


def _secret_values(variables: Mapping[str, str]) -> list[str]:
    """Return the secrets in variables in all forms in which they may be written, longest first."""
    raw = {value for name, value in variables.items() if _SECRET_NAME.search(name)}
    logins = {userinfo for value in variables.values() if "://" in value for userinfo in _userinfo(value)}
    user, password = (variables.get(name, "") for name in _LOGIN)
    logins |= {f"{user}:{password}"} if password else set()
    for login in logins:
        name, colon, secret = login.partition(":")
        # A token may take the place of user and password.
        raw |= {login, secret if colon else name}
    found = {form for value in raw if len(value) >= _MIN_LENGTH for form in _forms(value)}
    return sorted(found, key=len, reverse=True)


def _userinfo(value: str) -> Iterator[str]:
    """Yield user and password of a URL, even if a / in the password makes the URL invalid."""
    rest = value.partition("://")[2]
    authority = rest.partition("/")[0]
    # In a valid URL an @ after the authority is part of the path.
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
