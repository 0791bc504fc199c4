"""Trees of boxes as self-contained SVG for light and dark mode, without scripts."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from llava_av.files import write_whole

__all__ = ["Box", "draw_tree", "write_diagram"]

_WIDTH, _LINE, _PAD, _GAP_X, _GAP_Y = 370, 17, 11, 44, 14
_CHARACTERS = 42
_STYLE = """
svg{font:13px/1.3 system-ui,sans-serif;background:#fff;
--ink:#1c2127;--muted:#5f6b7a;--line:#c9d1da;--box:#f6f8fa;--good:#18794e;--bad:#c62a2f;--open:#8a6d00}
@media (prefers-color-scheme:dark){svg{background:#14171a;
--ink:#e6e9ec;--muted:#98a2ad;--line:#3a424b;--box:#1d2227;--good:#4cc38a;--bad:#ff6369;--open:#d6a70a}}
rect{fill:var(--box);stroke:var(--line)}path{fill:none;stroke:var(--line);stroke-width:1.5}
text{fill:var(--muted)}.title{fill:var(--ink);font-weight:600}
.good rect{stroke:var(--good)}.bad rect{stroke:var(--bad)}.open rect{stroke:var(--open)}
.good .state{fill:var(--good)}.bad .state{fill:var(--bad)}.open .state{fill:var(--open)}
"""


@dataclass(frozen=True, kw_only=True)
class Box:
    """A node of the tree; its children follow it in the sequence."""

    title: str
    lines: tuple[str, ...]
    """Lines below the title."""
    depth: int
    """Distance from the root."""
    state: str = "plain"
    """`good`, `bad`, `open` or `plain`; the first three set the colour of the last line."""


def draw_tree(title: str, boxes: Sequence[Box]) -> str:
    """Return the tree as SVG; each box is to the right of its parent, the last earlier box of lower depth.

    Args:
        title: Description for screen readers.
        boxes: Nodes, each before its children.
    """
    heights = [2 * _PAD + _LINE * (1 + len(_wrapped(box))) for box in boxes]
    tops: list[int] = []
    top = _GAP_Y
    for index, box in enumerate(boxes):
        # A first child is beside its parent; every other box is below all earlier boxes.
        if index and box.depth == boxes[index - 1].depth + 1:
            tops.append(tops[-1])
            top = max(top, tops[-1] + heights[index] + _GAP_Y)
        else:
            tops.append(top)
            top += heights[index] + _GAP_Y
    depth = max((box.depth for box in boxes), default=0)
    width = _GAP_X // 2 + (depth + 1) * (_WIDTH + _GAP_X)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top}" '
        f'viewBox="0 0 {width} {top}" role="img"><title>{escape(title)}</title><style>{_STYLE}</style>'
    ]
    for index, box in enumerate(boxes):
        parent = next((one for one in range(index - 1, -1, -1) if boxes[one].depth < box.depth), None)
        if parent is not None:
            parts.append(_edge(boxes[parent], tops[parent], box, tops[index]))
    parts += [_drawn(box, tops[index], heights[index]) for index, box in enumerate(boxes)]
    return "\n".join([*parts, "</svg>\n"])


def write_diagram(path: Path, title: str, boxes: Sequence[Box]) -> None:
    """Write the tree as SVG to an `.svg` file, otherwise as an HTML page."""
    svg = draw_tree(title, boxes)
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="color-scheme" content="light dark"></head>\n'
        f"<body>\n{svg}</body></html>\n"
    )
    write_whole(path, svg if path.suffix == ".svg" else page)


def _left(box: Box) -> int:
    return _GAP_X // 2 + box.depth * (_WIDTH + _GAP_X)


def _wrapped(box: Box) -> list[str]:
    """Return the lines of a box, wrapped between words."""
    rows: list[str] = []
    for line in box.lines:
        row = ""
        for word in line.split():
            if row and len(row) + len(word) >= _CHARACTERS:
                rows.append(row)
                row = word
            else:
                row = f"{row} {word}".strip()
        rows.append(row)
    return rows


def _edge(parent: Box, parent_top: int, child: Box, child_top: int) -> str:
    start, end = _left(parent) + _WIDTH, _left(child)
    middle, anchor = (start + end) // 2 if child.depth == parent.depth + 1 else end - _GAP_X // 2, _PAD + 12
    return f'<path d="M{start} {parent_top + anchor}H{middle}V{child_top + anchor}H{end}"/>'


def _drawn(box: Box, top: int, height: int) -> str:
    left, rows = _left(box), _wrapped(box)
    parts = [
        f'<g class="{box.state}"><rect x="{left}" y="{top}" width="{_WIDTH}" height="{height}" rx="6"/>',
        f'<text class="title" x="{left + _PAD}" y="{top + _PAD + 12}">{escape(_clipped(box.title))}</text>',
    ]
    for number, row in enumerate(rows, start=1):
        state = ' class="state"' if number == len(rows) and box.state != "plain" else ""
        y = top + _PAD + 12 + number * _LINE
        parts.append(f'<text{state} x="{left + _PAD}" y="{y}">{escape(_clipped(row))}</text>')
    return "".join([*parts, "</g>"])


def _clipped(text: str) -> str:
    return text if len(text) <= _CHARACTERS else text[: _CHARACTERS - 1] + "…"
