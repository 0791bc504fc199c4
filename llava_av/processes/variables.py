"""Environment variables: set for a block, or read as counts or seconds."""

import contextlib
import math
import os
from collections.abc import Iterator, Mapping

from llava_av.errors import UserError

__all__ = ["DATA_CACHE_MB", "DATA_CACHE_VARIABLE", "count_variable", "seconds_variable", "set_variables"]

DATA_CACHE_VARIABLE = "LLAVA_AV_DATA_CACHE_MB"
"""Variable with the size in MB of the cache on disk from which a job reads media."""
DATA_CACHE_MB = 8000
"""Default size of this cache, if it is at most half of the disk."""

_MOST = 10_000
_LONGEST_S = 7 * 24 * 3600.0


@contextlib.contextmanager
def set_variables(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables of this process for a block, then restore their previous values."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def seconds_variable(
    variables: Mapping[str, str], name: str, default: float, *, least: float, error: type[UserError]
) -> float:
    """Return the seconds in a variable, from `least` to one week; the default if it is unset or empty.

    Raises:
        UserError: The value is not a number in this range; raised as class `error`.
    """
    text = variables.get(name)
    if not text:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not least <= seconds <= _LONGEST_S:
        raise error(f"{name}={text!r} must be a number of seconds from {least:g} to {_LONGEST_S:g}")
    return seconds


def count_variable(
    variables: Mapping[str, str], name: str, *, default: int = 0, least: int = 0, most: int = _MOST
) -> int:
    """Return the number in a variable; the default if it is unset or empty.

    Raises:
        UserError: The value is not a whole number from `least` to `most`.
    """
    text = variables.get(name)
    if not text:
        return default
    if not text.isdecimal() or not least <= int(text) <= most:
        raise UserError(f"{name}={text!r} must be a whole number from {least} to {most}")
    return int(text)
