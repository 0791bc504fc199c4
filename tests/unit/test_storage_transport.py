"""Timeouts of the HTTP transport, against a server that reads slowly."""

import http.server
import threading
from collections.abc import Iterator

import pytest

from llava_av.storage import transport
from llava_av.storage.transport import WholePool

CONNECT_S, PAUSE_S = 0.2, 0.6
# More than the buffers of both sockets hold.
BODY = bytes(32 << 20)


class SlowReader(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        length = int(self.headers["Content-Length"])
        if length:
            self.server.paused.wait(PAUSE_S)  # type: ignore[attr-defined]
        while length:
            length -= len(self.rfile.read(min(length, 1 << 20)))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), SlowReader) as server:
        server.paused = threading.Event()  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def test_the_timeout_for_connecting_does_not_apply_to_sends(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "_CONNECT_S", CONNECT_S)
    pool = WholePool(30, 1)
    # The first request opens the connection, the second one uses it again.
    for body in (b"", BODY, BODY):
        assert pool.urlopen("PUT", address, body=body).status == 200
