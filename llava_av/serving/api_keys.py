"""Bearer keys of the server."""

import hmac
from collections.abc import Sequence
from pathlib import Path

from llava_av.errors import UserError

__all__ = ["ApiKeys", "read_api_keys"]

_SHORTEST = 16


class ApiKeys:
    """Keys that requests may authenticate with.

    Args:
        keys: At least one key.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = [key.encode() for key in keys]

    def accepts(self, authorization: str) -> bool:
        """Check the value of an Authorization header; each key is compared in constant time."""
        scheme, _, given = authorization.partition(" ")
        matches = [hmac.compare_digest(key, given.strip().encode()) for key in self._keys]
        return scheme.lower() == "bearer" and any(matches)


def read_api_keys(file: Path) -> ApiKeys:
    """Read keys from a file with one key per line; empty lines and lines with # are skipped.

    Raises:
        UserError: The file cannot be read, has no key, or a key is too short or not ASCII.
    """
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--api-keys {file} cannot be read: {error}; give a text file") from None
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        raise UserError(f"--api-keys {file} has no key: write one per line")
    if not all(key.isascii() and key.isprintable() for key in keys):
        raise UserError(
            f"--api-keys {file} has a key that no header can have, must be printable ASCII: create one with "
            "`openssl rand -hex 32`"
        )
    shortest = min(map(len, keys))
    if shortest < _SHORTEST:
        raise UserError(
            f"--api-keys {file} has a key of {shortest} characters, must be ≥ {_SHORTEST}: create one with "
            "`openssl rand -hex 32`"
        )
    return ApiKeys(keys)
