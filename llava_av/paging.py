"""Iteration over listings that servers answer page by page."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

__all__ = ["all_pages"]

_Item = TypeVar("_Item")


def all_pages(fetch: Callable[[str], tuple[Iterable[_Item], str | None]]) -> Iterator[_Item]:
    """Iterate over the items of all pages; a page is fetched when its first item is needed.

    Args:
        fetch: Return the items of a page and the token of the next one, which is empty or None after the last
            page. Its argument is the token of the page, empty for the first one.
    """
    token: str | None = ""
    while token is not None:
        items, following = fetch(token)
        yield from items
        token = following or None
