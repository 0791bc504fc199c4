"""Sequences of items that are computed when they are read, because there may be millions."""

from collections.abc import Callable, Sequence
from typing import TypeVar, overload

__all__ = ["Computed"]

_Item = TypeVar("_Item")


class Computed(Sequence[_Item]):
    """Items that a function returns by their place.

    Args:
        length: Number of items.
        item: Returns the item at a place from 0 to `length` - 1.
    """

    def __init__(self, length: int, item: Callable[[int], _Item]) -> None:
        self._places, self._item = range(length), item

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> _Item: ...

    @overload
    def __getitem__(self, place: slice) -> list[_Item]: ...

    def __getitem__(self, place: int | slice) -> _Item | list[_Item]:
        if isinstance(place, slice):
            return list(map(self._item, self._places[place]))
        return self._item(self._places[place])
