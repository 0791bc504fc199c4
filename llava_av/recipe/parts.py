"""Parts of a model that can be trained, each with settings of its own."""

from collections.abc import Iterable, Mapping
from typing import Any

from llava_av.vocabulary import PART_NAMES, PartName

__all__ = ["EARLIER_PARTS", "PART_NAMES", "PartName", "current_parts", "first_parts", "parts_in_order"]

EARLIER_PARTS: Mapping[str, tuple[PartName, ...]] = {
    "vision": ("vision_tower",),
    "audio": ("audio_tower",),
    "projectors": ("vision_connector", "audio_connector"),
    "language": ("language", "embeddings"),
}
"""Parts that each name of the first version's `model.train` stands for."""


def parts_in_order(names: Iterable[Any]) -> list[Any]:
    """Return names once each: parts in the order of `PART_NAMES`, then all others."""
    once = list(dict.fromkeys(names))
    return [*(one for one in PART_NAMES if one in once), *(one for one in once if one not in PART_NAMES)]


def current_parts(names: Any) -> Any:
    """Return the parts that the first version's names stand for; names that it did not have stay."""
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return names
    return parts_in_order([part for name in names for part in EARLIER_PARTS.get(name, (name,))])


def first_parts(parts: Any) -> Any:
    """Return the first version's names of parts, or the parts if it had no names for them."""
    names = [name for name, of_name in EARLIER_PARTS.items() if set(of_name) <= set(parts)]
    return names if set(current_parts(names)) == set(parts) else parts
