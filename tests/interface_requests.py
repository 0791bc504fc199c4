"""Requests to the embedded servers' interfaces, as anybody on the machine can send them."""

import http.client
from collections.abc import Mapping

# What the servers' own interfaces read, write and delete with, and an object of the bucket.
KEY = "checkpoints/victim/step-00000001/manifest.json"
CONTENT = b"whole"
SEARCH = "/ajax-api/2.0/mlflow/experiments/search?max_results=5"
CREATE = "/ajax-api/2.0/mlflow/experiments/create"
PATHS = (
    "/",
    "/buckets/",
    f"/buckets/llava-av/{KEY}",
    f"/llava-av/{KEY}",
    "/dir/assign",
    "/cluster/status",
    "/col/delete?collection=llava-av",
    "/status",
    SEARCH,
    CREATE,
    "/api/2.0/mlflow-artifacts/artifacts?path=",
)
TIMEOUT_S = 10


def ask(
    port: int, method: str, path: str, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes, dict[str, str]]:
    """Send a request to a local port; return status (0 if nothing answers), body and headers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request(method, path, b"x" if method in ("PUT", "POST") else None, dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.getheaders())
    except (OSError, http.client.HTTPException):
        return 0, b"", {}
    finally:
        connection.close()
