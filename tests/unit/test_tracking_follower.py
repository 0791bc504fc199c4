"""Training continues whatever MLflow answers."""

import logging
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llava_av.runs import RunRequest
from llava_av.tracking.connection import MlflowError, mlflow_client
from llava_av.tracking.follower import JournalFollower
from llava_av.tracking.journal import Journal
from llava_av.tracking.mlflow_run import MlflowTracker, catch_up
from tests.artifacts import sample

ANSWERS: dict[str, tuple[int, str, bytes]] = {
    "403": (403, "text/plain", b"Permission denied"),
    "500": (500, "application/json", b'{"error_code": "INTERNAL_ERROR", "message": "no"}'),
    "garbage": (200, "application/json", b"\x00\xff{"),
    "null": (200, "application/json", b"null"),
    "list": (200, "application/json", b"[1]"),
    "other JSON": (200, "application/json", b'{"experiment": {"experiment_id": {"a": 1}}, "runs": 3}'),
    "HTML": (200, "text/html", b"<html>Sign in</html>"),
    "nothing": (200, "application/json", b""),
    "redirects": (302, "text/html", b""),
}
SILENT = ("cut", "hang", "drip")


class Answering(BaseHTTPRequestHandler):
    """Is well by /health, and else answers in the server's mode."""

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        mode, stopped = self.server.mode, self.server.stopped  # type: ignore[attr-defined]
        status, kind, body = (
            (200, "text/plain", b"OK") if self.path == "/health" else ANSWERS.get(mode, (200, "", b""))
        )
        if self.path != "/health" and mode in SILENT:
            if mode == "drip":
                self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while mode != "cut" and not stopped.wait(0.2):
                if mode == "drip":
                    self.wfile.write(b"x")
            return
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if status == 302:
            self.send_header("Location", self.path)
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT = do_PATCH = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        server.stopped = threading.Event()  # type: ignore[attr-defined]
        server.daemon_threads = True
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.stopped.set()  # type: ignore[attr-defined]
        server.shutdown()


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path / "metrics.jsonl")
    for step in range(3):
        journal.append({"step": step, "loss": 1.0})
    return journal


REQUEST = sample(RunRequest)
MODES = [*ANSWERS, "cut", "hang", pytest.param("drip", marks=pytest.mark.slow)]


@pytest.mark.parametrize("mode", MODES)
def test_a_follower_ends_well_and_warns_once(
    server: Any, journal: Journal, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.mode = mode
    with caplog.at_level(logging.WARNING, "llava_av"):
        assert JournalFollower(MlflowTracker(REQUEST), journal).finish() is None
    (warning,) = [record for record in caplog.records if record.name.startswith("llava_av")]
    assert "training continues" in warning.getMessage()
    assert "\n" not in warning.getMessage()


@pytest.mark.parametrize("mode", [*ANSWERS, "cut", "hang"])
def test_a_command_says_in_one_line_what_mlflow_answers(server: Any, journal: Journal, mode: str) -> None:
    server.mode = mode
    with pytest.raises(MlflowError, match=r"^MLflow at http://127\.0\.0\.1") as caught:
        catch_up(REQUEST, journal.rows())
    assert "\n" not in str(caught.value)


def test_a_health_that_never_ends_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks waits for the status alone."""

    class Endless(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            while not ended.wait(0.1):
                self.wfile.write(b"x")

    ended = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_address[1]}")
        started = time.monotonic()
        with mlflow_client():
            assert time.monotonic() - started < 60
        ended.set()
        server.shutdown()
