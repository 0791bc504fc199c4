"""Counts in messages: `1 sample`, `2 samples`."""

__all__ = ["count_of"]


def count_of(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun, such as `1 sample` or `2 samples`.

    Args:
        number: The number.
        noun: The noun in the singular.
        plural: Its plural, if it is not the noun with an `s`.
    """
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"
