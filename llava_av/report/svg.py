"""matplotlib figures as inline SVG with the colours and fonts of the page.

matplotlib draws with placeholder colours, which are then replaced by CSS variables. Therefore one figure
works in light mode, in dark mode and in print.
"""

import atexit
import html
import io
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = ["ACCENT", "INK", "LINE", "MUTED", "NEUTRAL", "SERIES", "WIDTH", "box", "drawing", "svg_text"]

_CSS_COLOURS = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--line)",
    "#040404": "var(--accent)",
    "#050505": "var(--neutral)",
    "#060606": "var(--series-2)",
    "#070707": "var(--series-3)",
    "#080808": "var(--series-4)",
}
INK, MUTED, LINE, ACCENT, NEUTRAL, *_OTHERS = _CSS_COLOURS
SERIES = (ACCENT, *_OTHERS, NEUTRAL)
"""Colours of the curves in one panel."""
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": LINE,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 1.0,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.formatter.useoffset": False,
    "figure.dpi": 72,
    "font.family": ["DejaVu Sans"],
    "font.size": 11.0,
    "grid.color": LINE,
    "grid.linewidth": 1.0,
    "savefig.dpi": 72,
    "savefig.transparent": True,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "xtick.labelcolor": MUTED,
    "xtick.major.size": 3.0,
    "ytick.color": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.left": False,
    "ytick.major.size": 0.0,
    "ytick.minor.size": 0.0,
}
WIDTH = 344
"""Width of every figure in CSS pixels."""


def box(
    left: float, bottom: float, right: float, top: float, height: float
) -> tuple[float, float, float, float]:
    """Convert margins in pixels to the fractions that matplotlib uses for axes."""
    return (
        left / WIDTH,
        bottom / height,
        (WIDTH - left - right) / WIDTH,
        (height - bottom - top) / height,
    )


@contextmanager
def drawing(height: float) -> Iterator["Canvas"]:
    """Open a figure of `WIDTH` x `height` CSS pixels in the style of the report, ignoring user settings."""
    _place_caches()
    # On slow machines it logs a warning while it builds its list of fonts.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield Canvas(figsize=(WIDTH / 72, height / 72))


def _place_caches() -> None:
    """Give matplotlib a temporary folder if its own is not writable, which would cause a warning."""
    if os.environ.get("MPLCONFIGDIR"):
        return
    if all(_writable(folder) for folder in _cache_folders()):
        return
    temporary = tempfile.mkdtemp(prefix="llava-av-matplotlib-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    os.environ["MPLCONFIGDIR"] = temporary


def _cache_folders() -> list[Path]:
    """Return the folders of matplotlib's settings and list of fonts, by operating system."""
    home = Path("~").expanduser()
    if sys.platform == "darwin":
        return [home / ".matplotlib"]
    roots = (("XDG_CONFIG_HOME", ".config"), ("XDG_CACHE_HOME", ".cache"))
    return [Path(os.environ.get(variable) or home / usual) / "matplotlib" for variable, usual in roots]


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def svg_text(canvas: "Canvas", label: str) -> str:
    """Return the figure as an `<svg>` element with the colours and fonts of the page."""
    import matplotlib

    # The salt makes the IDs of different figures distinct within one page.
    matplotlib.rcParams["svg.hashsalt"] = label
    stream = io.StringIO()
    canvas.savefig(stream, format="svg")
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'<style type="text/css">.*?</style>', "", text, flags=re.DOTALL)
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img">', text, count=1)
    text = text.replace("xlink:href", "href")
    text = re.sub(r'\bid="(?:figure|axes|patch|matplotlib\.axis|xtick|ytick|line2d|text)_\d+"', "", text)
    text = re.sub(r"font: (?:(bold|\d+) )?([\d.]+)px [^;\"<]*", _font, text)
    text = re.sub(r"; font-family: [^;\"<]*", "", text)
    for colour, variable in _CSS_COLOURS.items():
        text = text.replace(colour, variable)
    return text.replace('role="img"', f'role="img" aria-label="{html.escape(label)}"', 1).strip()


def _font(found: re.Match[str]) -> str:
    weight = f"; font-weight: {found[1]}" if found[1] else ""
    return f"font-size: {found[2]}px{weight}"
