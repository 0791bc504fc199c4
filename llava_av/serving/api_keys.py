"""Bearer keys of the server."""

import hmac
import logging
import stat
from pathlib import Path

from llava_av.errors import UserError
from llava_av.plurals import count_of

__all__ = ["ApiKeys"]

_LOG = logging.getLogger(__name__)
_SHORTEST = 16


class ApiKeys:
    """Keys that requests may authenticate with, from a file that is read again when it changes.

    Args:
        file: File with one key per line; empty lines and lines with # are skipped.

    Raises:
        UserError: The file cannot be read, has no key, or a key is too short or not ASCII.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._state = file, _state(file)
        self._keys = _read_keys(file)

    def accepts(self, authorization: str) -> bool:
        """Check the value of an Authorization header; each key is compared in constant time."""
        self._update()
        scheme, _, given = authorization.partition(" ")
        matches = [hmac.compare_digest(key, given.strip().encode()) for key in self._keys]
        return scheme.lower() == "bearer" and any(matches)

    def _update(self) -> None:
        """Read the file if it is another one; keep the keys if it cannot be used."""
        state = _state(self._file)
        if state == self._state:
            return
        self._state = state
        try:
            self._keys = _read_keys(self._file)
        except UserError as error:
            _LOG.error("%s; the earlier keys stay", error)
        else:
            _LOG.info("--api-keys %s has changed: %s", self._file, count_of(len(self._keys), "key"))


def _state(file: Path) -> tuple[int, int, int] | None:
    """Return what changes with a file; None if it is missing."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read_keys(file: Path) -> list[bytes]:
    try:
        # Reading a pipe blocks, and it cannot be read again.
        if not stat.S_ISREG(file.stat().st_mode):
            raise UserError(f"--api-keys {file} is a folder or a special file: give a text file")
        lines = file.read_text(encoding="utf-8-sig").split("\n")
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
    return [key.encode() for key in keys]
