"""Base class of errors that a user can fix, and their one-line messages."""

import errno
import unicodedata
from collections.abc import Iterator

from llava_av.redaction import redact

__all__ = ["UserError", "explain", "printable"]

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# Messages of libraries that write files natively: safetensors, SQLite, PyTorch's zip writer.
_DISK_FULL_MESSAGES = ("No space left on device", "disk is full", "PytorchStreamWriter failed writing")

_OWN = ("llava_av", "pipelines")
_EXTRAS = {"fastapi": "serve", "uvicorn": "serve"}
"""Extra of `pyproject.toml` with a module, for modules that `local` lacks."""


class UserError(Exception):
    """An error whose one-line message names what failed, why, and what to do.

    Commands show only the message and exit with 1. Any other exception is a bug and keeps its traceback.
    """

    def __init__(self, *parts: object, transient: bool = False) -> None:
        """Create the error.

        Args:
            parts: The message, or its parts in subclasses that compose it.
            transient: True if a retry may succeed without a change by the user.
        """
        # A library's message may quote a URL with its password.
        super().__init__(*(redact(part) if isinstance(part, str) else part for part in parts))
        self.transient = transient


def explain(error: BaseException) -> str | None:
    """Return the line that tells the user how to fix an error; None if the error is a bug."""
    if isinstance(error, UserError):
        return printable(" ".join(str(error).split()))
    if isinstance(error, ModuleNotFoundError):
        module = (error.name or "").partition(".")[0]
        if module and module not in _OWN:
            extra = _EXTRAS.get(module, "local")
            return f"the Python module {module} is not installed: pip install 'llava-av[{extra}]'"
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in _DISK_FULL:
            where = f" at {cause.filename}" if cause.filename else ""
            return f"no space left on the disk{where}; free some, or choose another --output-dir"
        if any(message in str(cause) for message in _DISK_FULL_MESSAGES):
            return "no space left on the disk; free some, or choose another --output-dir"
    return None


def printable(text: str, *, keep: str = "") -> str:
    r"""Escape text of a user or a model, such as a file name, so that it is one line and safe to print.

    Line breaks, terminal escapes, marks that change the direction of text, and undecodable bytes become
    escapes such as `\n` and `\x1b`. All other characters of every script stay.

    Args:
        text: Text to print.
        keep: Characters that are not escaped.
    """
    return "".join(
        character if character in keep or _is_safe(character) else _escaped(character) for character in text
    )


def _is_safe(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and the chain of its causes and contexts."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
