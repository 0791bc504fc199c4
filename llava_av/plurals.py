"""Counts and lists in messages: `1 sample`, `2 samples`, `a, b and 3 more`."""

from collections.abc import Sequence

__all__ = ["count_of", "listed"]


def count_of(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun, such as `1 sample` or `2 samples`.

    Args:
        number: The number.
        noun: The noun in the singular.
        plural: Its plural, if it is not the noun with an `s`.
    """
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def listed(names: Sequence[str], most: int) -> str:
    """Return names separated by commas, such as `a, b and 3 more`.

    Args:
        names: The names.
        most: Number of names up to which all are listed; further ones are counted.
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
