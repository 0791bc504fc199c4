"""The one base of every error that a user, not a developer, has to act on, and the line that tells of it."""

import errno
import unicodedata
from collections.abc import Iterator

from llava_av.redaction import redact

__all__ = ["UserError", "explain", "printable"]

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# What libraries that write files without Python say instead: safetensors, SQLite, PyTorch's zip writer.
_DISK_FULL_WORDS = ("No space left on device", "disk is full", "PytorchStreamWriter failed writing")


class UserError(Exception):
    """Its text is one line that names the thing at fault and what to do about it.

    Commands print the text alone and exit with 1; anything else that escapes is a bug and keeps its
    traceback.
    """

    def __init__(self, *parts: object, transient: bool = False) -> None:
        """Say what is wrong.

        Args:
            parts: The line; what it is made from in subclasses that make it.
            transient: Whether the same may work a little later, with nothing changed by the user.
        """
        # What a library said may quote an address with its password.
        super().__init__(*(redact(part) if isinstance(part, str) else part for part in parts))
        self.transient = transient


def explain(error: BaseException) -> str | None:
    """The line that tells a user what to do about `error`; None when it is a bug of ours."""
    if isinstance(error, UserError):
        return printable(" ".join(str(error).split()))
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in _DISK_FULL:
            where = f" at {cause.filename}" if cause.filename else ""
            return f"no space left on the disk{where}; free some, or choose another --output-dir"
        if any(words in str(cause) for words in _DISK_FULL_WORDS):
            return "no space left on the disk; free some, or choose another --output-dir"
    return None


def printable(text: str, *, keep: str = "") -> str:
    r"""Return text that a user or a model supplied, such as a file's name, as one line that is safe to print.

    Line breaks, terminal escapes, marks that change the direction of text, and bytes that are no text become
    escapes such as `\n` and `\x1b`; everything else stays, whatever its script.

    Args:
        text: Text to print.
        keep: Characters that stay as they are.
    """
    return "".join(sign if sign in keep or _is_safe(sign) else _escaped(sign) for sign in text)


def _is_safe(sign: str) -> bool:
    return sign.isprintable() or unicodedata.category(sign) == "Zs"


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised from or beside."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
