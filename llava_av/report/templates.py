"""Jinja templates of the report package: pages, their stylesheet and scripts, and the model card."""

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

__all__ = ["Filters", "InlineScript", "inline_script", "render_template"]

Filters = Mapping[str, Callable[..., object]]
"""Functions that a template applies to its values, by name."""

_FOLDER = Path(__file__).parent


def render_template(
    name: str,
    values: Mapping[str, object],
    *,
    html: bool,
    filters: Filters | None = None,
) -> str:
    """Render a template; an undefined variable is an error.

    Args:
        name: Path below the report package, such as `run_report/report.html.j2`.
        values: Variables of the template.
        html: Escape values for HTML; otherwise insert them unchanged.
        filters: Further filters by name.
    """
    return _template(name, html, tuple(sorted((filters or {}).items()))).render(values)


@dataclass(frozen=True, kw_only=True)
class InlineScript:
    """A script in a page whose content security policy allows only this script, by its hash."""

    text: Markup
    source: str
    """Source for `script-src`, such as `sha256-…`."""


def inline_script(name: str) -> InlineScript:
    """Return a script by its path below the report package."""
    text = (_FOLDER / name).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return InlineScript(text=Markup(text), source=f"sha256-{digest}")


@cache
def _template(name: str, html: bool, filters: tuple[tuple[str, Callable[..., object]], ...]) -> Template:
    """Return a compiled template; compiling takes longer than rendering."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=html,
    )
    environment.filters.update(filters)
    return environment.get_template(name)
