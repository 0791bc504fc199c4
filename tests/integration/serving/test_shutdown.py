"""The delay between the signal that ends a server and its end."""

import http.client
import signal
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.integration.serving.conftest import serving
from tests.server_processes import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.mark.slow
def test_during_the_delay_requests_are_answered_and_their_connections_closed(
    model: Path, tmp_path: Path
) -> None:
    with serving(str(model), tmp_path / "log", "--shutdown-delay-s", "600") as (address, command):
        parts = urlsplit(address)
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60)

        def status(path: str) -> int:
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            closes.append(answer.will_close)
            return answer.status

        closes: list[bool] = []
        assert status("/readyz") == 200
        assert closes == [False]
        command.process.send_signal(signal.SIGTERM)
        wait_until(lambda: status("/readyz") == 503 and closes[-1], 30)
        assert [status("/healthz"), status("/v1/models")] == [200, 200]
        assert closes[-2:] == [True, True]
        command.process.send_signal(signal.SIGTERM)
        assert command.wait(60) == 143
    assert "Traceback" not in command.output()
