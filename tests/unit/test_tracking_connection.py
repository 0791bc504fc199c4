"""Error messages when MLflow rejects a request."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from llava_av.tracking.connection import MlflowError, mlflow_client

ANSWERS = {401: "You are not authenticated.", 403: "Permission denied", 404: "no such page"}


class Refusing(BaseHTTPRequestHandler):
    """Is well, and answers all else with the server's code in MLflow's words."""

    def do_GET(self) -> None:
        code = 200 if self.path in ("/health", "/version") else self.server.code  # type: ignore[attr-defined]
        body = ANSWERS.get(code, "OK").encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), Refusing)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://somebody:secret@127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (401, "authentication failed; check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        (403, "permission denied, or nothing has this name"),
        (404, "no such page"),
    ],
)
def test_a_refusal_says_what_to_check(server: HTTPServer, code: int, said: str) -> None:
    server.code = code  # type: ignore[attr-defined]
    with pytest.raises(MlflowError, match=said) as caught, mlflow_client() as client:
        client.get_registered_model("absent")
    assert "secret" not in str(caught.value)
    assert not caught.value.transient
