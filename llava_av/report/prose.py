"""The little Markdown that experiment records use: paragraphs and lists."""

import re
from dataclasses import dataclass

__all__ = ["Block", "blocks"]

_BULLET = re.compile(r"^(?:[-*+]|\d+[.)])\s+")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A paragraph (one item) or a list."""

    is_list: bool
    items: tuple[str, ...]


def blocks(text: str) -> tuple[Block, ...]:
    """Paragraphs and lists of a Markdown text in order; other markup is kept as it is written."""
    found: list[Block] = []
    for part in re.split(r"\n\s*\n", text.strip()):
        paragraph: list[str] = []
        items: list[str] = []
        for line in filter(None, (line.strip() for line in part.splitlines())):
            if _BULLET.match(line):
                items.append(_BULLET.sub("", line))
            elif items:
                items[-1] += f" {line}"
            else:
                paragraph.append(line)
        if paragraph:
            found.append(Block(is_list=False, items=(" ".join(paragraph),)))
        if items:
            found.append(Block(is_list=True, items=tuple(items)))
    return tuple(found)
