"""A headless Chromium, controlled through its debugger."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import websocket

from tests.interface_requests import TIMEOUT_S, ask

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DEADLINE_S = 180

needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium here (Debian's package: chromium)")


@contextlib.contextmanager
def chromium(folder: Path, *addresses: str) -> Iterator[int]:
    """Run a browser on some pages, and yield the port of its debugger."""
    assert BROWSER is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={folder}"]
    process = subprocess.Popen(
        [BROWSER, *options, "--remote-debugging-port=0", *addresses],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        port_file = folder / "DevToolsActivePort"
        wait_until(
            lambda: port_file.exists() and "\n" in port_file.read_text(),
            lambda: f"the browser has not written {port_file} (exit code {process.poll()})",
        )
        yield int(port_file.read_text().splitlines()[0])
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until(condition: Callable[[], bool], failure: Callable[[], str]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"after {DEADLINE_S} s: {failure()}"
        time.sleep(0.1)


def open_tab(debugged: int, url: str) -> str:
    """Open a tab of a debugged browser and return the address of its debugger."""
    status, body, _ = ask(debugged, "PUT", f"/json/new?{quote(url, safe='')}")
    assert status == 200
    address: str = json.loads(body)["webSocketDebuggerUrl"]
    return address


def command(tab: str, method: str, **parameters: object) -> dict[str, Any]:
    """Send a command to a tab's debugger and return the result; it is empty if the tab is busy."""
    with (
        contextlib.suppress(OSError, websocket.WebSocketException),
        contextlib.closing(
            websocket.create_connection(tab, timeout=TIMEOUT_S, suppress_origin=True)
        ) as open_,
    ):
        open_.send(json.dumps({"id": 1, "method": method, "params": parameters}))
        result: dict[str, Any] = json.loads(open_.recv()).get("result", {})
        return result
    return {}


class Tab:
    """Tab of a browser whose requests are recorded."""

    def __init__(self, debugged: int) -> None:
        self._connection = websocket.create_connection(
            open_tab(debugged, "about:blank"), timeout=DEADLINE_S, suppress_origin=True
        )
        self._last = 0
        self.requested: list[str] = []
        self.command("Network.enable")
        self.command("Page.enable")

    def command(self, method: str, **parameters: object) -> dict[str, Any]:
        """Send a command and return its result."""
        self._last += 1
        self._connection.send(json.dumps({"id": self._last, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv())
            if message.get("method") == "Network.requestWillBeSent":
                self.requested.append(message["params"]["request"]["url"])
            if message.get("id") == self._last:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result

    def value(self, expression: str) -> Any:
        """Return the value of an expression, also of a promise."""
        given = {"expression": expression, "awaitPromise": True, "returnByValue": True, "userGesture": True}
        result = self.command("Runtime.evaluate", **given)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def open(self, url: str) -> None:
        """Load a page and wait until it is complete."""
        self.command("Page.navigate", url=url)
        wait_until(
            lambda: self.value(f"location.href === {json.dumps(url)} && document.readyState") == "complete",
            lambda: f"{url} is not loaded",
        )
