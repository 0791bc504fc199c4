"""Page on which a person asks the model: three files, which load nothing from elsewhere."""

from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI, Request, Response
from starlette.responses import FileResponse
from starlette.routing import Route

__all__ = ["add_page"]

_FOLDER = Path(__file__).with_name("page_files")
_FILES = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js"}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src blob:; "
        "media-src blob:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def add_page(app: FastAPI) -> None:
    """Add the page at `/` and its files, which need no API key."""
    for path, name in _FILES.items():
        app.router.routes.append(Route(path, _sender(name)))


def _sender(name: str) -> Callable[[Request], Response]:
    def send(_: Request) -> Response:
        return FileResponse(_FOLDER / name, headers=_HEADERS)

    return send
