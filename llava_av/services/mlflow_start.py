"""Startup of an embedded MLflow."""

import http.client
import importlib.util
import os
import sys
import time
from pathlib import Path

from llava_av.services.addresses import Addresses, mlflow_login
from llava_av.services.ports import LOOPBACK
from llava_av.services.server import Server, launch
from llava_av.services.server_errors import ServiceError
from llava_av.services.state import Credentials, StateLock
from llava_av.storage.store_settings import DEFAULT_REGION

__all__ = ["start_mlflow", "wait_for_address", "wait_for_health"]

# Startup takes about 6 s, and up to 75 s next to six busy processes on two cores.
_DEADLINE_S, _POLL_S = 180.0, 0.05
_PORT_FILE = "mlflow.port"


def start_mlflow(
    state: Path, lock: StateLock, store: Addresses, credentials: Credentials, port: int | None
) -> Server:
    """Start MLflow on the state folder, with its artifacts in the object store.

    Raises:
        ServiceError: It is not installed.
    """
    if importlib.util.find_spec("uvicorn") is None or importlib.util.find_spec("mlflow") is None:
        raise ServiceError(
            "the embedded MLflow is not installed: pip install 'llava-av[local]', "
            "or name a server with MLFLOW_TRACKING_URI"
        )
    # The user's profile or session token would be combined with the embedded store's keys.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MLFLOW_"))}
    environment = {
        **kept,
        **store.environment(credentials),
        **mlflow_login(credentials),
        "MLFLOW_S3_ENDPOINT_URL": store.s3,
        "AWS_DEFAULT_REGION": DEFAULT_REGION,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    port_file = state.resolve() / _PORT_FILE
    port_file.unlink(missing_ok=True)
    command = [sys.executable, "-W", "ignore", "-m", "llava_av.services.mlflow_server"]
    command += ["--folder", str(state.resolve()), "--artifacts", f"s3://{store.bucket}/mlflow"]
    command += ["--port", str(port or 0), "--port-file", str(port_file)]
    return launch("MLflow", state, lock, command, environment)


def wait_for_address(server: Server, state: Path) -> str:
    """Return the URL of a server as soon as it listens; it may not answer yet."""
    port_file, deadline = state / _PORT_FILE, time.monotonic() + _DEADLINE_S
    while time.monotonic() < deadline:
        server.check_alive()
        if port_file.exists():
            return f"http://{LOOPBACK}:{int(port_file.read_text())}"
        time.sleep(_POLL_S)
    raise server.failure(f"has no port after {_DEADLINE_S:.0f} s")


def wait_for_health(server: Server, uri: str) -> None:
    """Wait until a server answers."""
    deadline = time.monotonic() + _DEADLINE_S
    while time.monotonic() < deadline:
        server.check_alive()
        if _is_healthy(int(uri.rpartition(":")[2])):
            return
        time.sleep(_POLL_S)
    raise server.failure(f"does not answer after {_DEADLINE_S:.0f} s")


def _is_healthy(port: int) -> bool:
    # The server listens before it answers. The request times out regularly to check that the server lives.
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
