"""Seals: checksums inside objects, by which every reader notices a changed byte.

`seal` appends the SHA-256 of all preceding bytes to an object, in a form that its format allows: a last field
in JSON, a last line in JSON Lines, a comment in Markdown and HTML. Other programs can still read the object,
and one request writes content and checksum together. `unseal` verifies the checksum and removes it.

An object without a seal was written by an earlier version or by another program: it is readable, but not
verified. A seal has a fixed length and form, so a seal with a changed byte does not pass as a missing seal.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

__all__ = ["SealBroken", "Unsealed", "json_bytes", "seal", "unseal"]

_FIELD = "seal"
_DIGEST = b"0" * 64
_COMMENT = b"\n<!-- seal sha256:" + _DIGEST + b" -->\n"
_JSON_END = b"\n}\n"
_JSON = b',\n "seal": "sha256:' + _DIGEST + b'"' + _JSON_END
# Seals by the suffix of the key, with zeros for the digest. Refs of datasets have no suffix and contain JSON.
_FORMS = {
    "": _JSON,
    ".json": _JSON,
    ".jsonl": b'{"seal": "sha256:' + _DIGEST + b'"}\n',
    ".md": _COMMENT,
    ".html": _COMMENT,
}
_MOST_CHANGED = 4


class SealBroken(Exception):
    """An object whose content does not match its seal."""


@dataclass(frozen=True, kw_only=True)
class Unsealed:
    """An object's content without its seal."""

    content: bytes
    verified: bool
    """True if it had a seal; without a seal the content is unverified."""


def json_bytes(value: Any) -> bytes:
    """Encode a value as JSON with sorted keys, in the layout that `seal` expects."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def seal(key: str, content: bytes) -> bytes:
    """Return an object's content with its seal; unchanged if its format has no seal.

    Args:
        key: Key of the object; its suffix names the format.
        content: JSON as `json_bytes` encodes it, complete lines of JSON Lines, or text.
    """
    form = _FORMS.get(PurePosixPath(key).suffix)
    if form is None:
        return content
    if form is not _JSON:
        return content + _filled(form, content)
    body = content.removesuffix(_JSON_END)
    # A JSON value without fields cannot contain a seal.
    return body + _filled(form, body) if body != content else content


def unseal(key: str, stored: bytes) -> Unsealed:
    """Verify an object's seal and remove it.

    Args:
        key: Key of the object.
        stored: Bytes in the store.

    Raises:
        SealBroken: The content or the seal was changed.
    """
    form = _FORMS.get(PurePosixPath(key).suffix)
    if form is None:
        return Unsealed(content=stored, verified=False)
    body, end = stored[: -len(form)], stored[-len(form) :]
    if end == _filled(form, body):
        closing = _JSON_END if form is _JSON else b""
        return Unsealed(content=body + closing, verified=True)
    if _resembles(end, form) or (form is _JSON and _has_seal_elsewhere(stored)):
        raise SealBroken
    return Unsealed(content=stored, verified=False)


def _filled(form: bytes, body: bytes) -> bytes:
    return form.replace(_DIGEST, hashlib.sha256(body).hexdigest().encode())


def _resembles(end: bytes, form: bytes) -> bool:
    """Check whether bytes are a seal; a few bytes outside its digest may have changed."""
    if len(end) != len(form):
        return False
    first = form.index(_DIGEST)
    outside = (*range(first), *range(first + len(_DIGEST), len(form)))
    changed = [at for at in outside if end[at] != form[at]]
    return len(changed) <= _MOST_CHANGED


def _has_seal_elsewhere(stored: bytes) -> bool:
    """Check whether another program rewrote a sealed JSON object, and may have changed it."""
    try:
        value = json.loads(stored)
    except ValueError:
        return False
    return isinstance(value, dict) and str(value.get(_FIELD, "")).startswith("sha256:")
