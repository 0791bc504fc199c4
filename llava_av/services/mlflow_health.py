"""Whether an MLflow server answers."""

import urllib3
from urllib3.util import make_headers, parse_url

from llava_av.redaction import redact_line, without_password
from llava_av.services.errors import ServiceError

__all__ = ["require_answer"]


def require_answer(uri: str, timeout_s: float) -> None:
    """Ask a server once for its health.

    An answer below 500 will do: what a server behind a login says to a stranger is MLflow's client to tell.

    Raises:
        ServiceError: `uri` is no address of a server, nobody answers in time, or the server has failed.
    """
    shown = without_password(uri)
    try:
        parts = parse_url(uri)
    except urllib3.exceptions.LocationParseError:
        parts = urllib3.util.Url()
    if parts.scheme not in ("http", "https") or not parts.host:
        raise ServiceError(
            f"MLFLOW_TRACKING_URI={shown} is not the address of a server: give http(s)://HOST:PORT"
        )
    headers = make_headers(basic_auth=parts.auth) if parts.auth else None
    address = f"{without_password(uri).rstrip('/')}/health"
    try:
        # Without retries, and without reading the answer, which may never end: only its status is wanted.
        answer = urllib3.request(
            "GET", address, headers=headers, timeout=timeout_s, retries=False, preload_content=False
        )
        answer.close()
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        reason = redact_line(str(error)) or type(error).__name__
        raise ServiceError(
            f"MLflow at {shown} does not answer ({reason.rpartition('] ')[2]}): start it, or correct "
            "MLFLOW_TRACKING_URI (`llava-av services up` starts one here)"
        ) from error
    if answer.status >= 500:
        raise ServiceError(f"MLflow at {shown} answers HTTP {answer.status}: see its log")
