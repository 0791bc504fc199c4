"""matplotlib figures as inline SVG whose colours and type are those of the page around them.

matplotlib draws with stand-in colours; they become CSS variables afterwards, so that one figure serves
the light page, the dark page and paper.
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

_STAND_INS = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--line)",
    "#040404": "var(--accent)",
    "#050505": "var(--neutral)",
    "#060606": "var(--series-2)",
    "#070707": "var(--series-3)",
    "#080808": "var(--series-4)",
}
INK, MUTED, LINE, ACCENT, NEUTRAL, *_OTHERS = _STAND_INS
SERIES = (ACCENT, *_OTHERS, NEUTRAL)
"""Colours of curves that share a panel."""
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
    """Margins in pixels as the fractions that matplotlib places axes by."""
    return (
        left / WIDTH,
        bottom / height,
        (WIDTH - left - right) / WIDTH,
        (height - bottom - top) / height,
    )


@contextmanager
def drawing(height: float) -> Iterator["Canvas"]:
    """Open a figure of `WIDTH` x `height` CSS pixels in the report's style, whatever the user's own is."""
    _place_caches()
    # On a slow machine it would say that it looks for fonts, which is nobody's concern.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield Canvas(figsize=(WIDTH / 72, height / 72))


def _place_caches() -> None:
    """Give matplotlib a temporary folder if it cannot write to its own, which it would warn about."""
    if os.environ.get("MPLCONFIGDIR"):
        return
    if all(_writable(folder) for folder in _cache_folders()):
        return
    temporary = tempfile.mkdtemp(prefix="llava-av-matplotlib-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    os.environ["MPLCONFIGDIR"] = temporary


def _cache_folders() -> list[Path]:
    """Where matplotlib keeps its settings and its list of fonts (its own rule, by system)."""
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
    """Return the figure as an `<svg>` element that takes colours and type from the page."""
    import matplotlib

    # Ids within the file are hashed with the salt: one of its own for each figure keeps them apart.
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
    for stand_in, variable in _STAND_INS.items():
        text = text.replace(stand_in, variable)
    return text.replace('role="img"', f'role="img" aria-label="{html.escape(label)}"', 1).strip()


def _font(found: re.Match[str]) -> str:
    weight = f"; font-weight: {found[1]}" if found[1] else ""
    return f"font-size: {found[2]}px{weight}"
