"""Markdown subset of experiment records: paragraphs, lists and `code`."""

import re
from dataclasses import dataclass

__all__ = ["Block", "Span", "blocks", "spans"]

# The closing backticks match the opening ones; white space at both ends is not part of the code.
_CODE = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")
_BULLET = re.compile(r"^(?:[-*+]|\d+[.)])\s+")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A paragraph (one item) or a list."""

    is_list: bool
    items: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Span:
    """A piece of a line."""

    is_code: bool
    text: str


def spans(text: str) -> tuple[Span, ...]:
    """Split a text into plain text and inline code; an unmatched backtick stays as it is."""
    found, end = [], 0
    for match in _CODE.finditer(text):
        found.append(Span(is_code=False, text=text[end : match.start()]))
        found.append(Span(is_code=True, text=match.group(2).strip() or match.group(2)))
        end = match.end()
    found.append(Span(is_code=False, text=text[end:]))
    return tuple(span for span in found if span.text)


def blocks(text: str) -> tuple[Block, ...]:
    """Split a Markdown text into paragraphs and lists; markup within a line stays as it is."""
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
