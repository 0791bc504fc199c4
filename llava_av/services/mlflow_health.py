"""A check that an MLflow server answers."""

import urllib3
from urllib3.util import make_headers, parse_url

from llava_av.redaction import redact_line, without_password
from llava_av.services.server_errors import ServiceError

__all__ = ["require_answer"]


def require_answer(uri: str, timeout_s: float) -> None:
    """Request a server's health once.

    A status below 500 suffices: MLflow's client reports failed authentication.

    Raises:
        ServiceError: `uri` is not the URL of a server, no answer arrives in time, or the server has failed.
    """
    shown = without_password(uri)
    try:
        parts = parse_url(uri)
    except urllib3.exceptions.LocationParseError:
        parts = urllib3.util.Url()
    if parts.scheme not in ("http", "https") or not parts.host:
        raise ServiceError(
            f"MLFLOW_TRACKING_URI={shown} is not the URL of a server: set it to http(s)://HOST:PORT"
        )
    headers = make_headers(basic_auth=parts.auth) if parts.auth else None
    address = f"{without_password(uri).rstrip('/')}/health"
    try:
        # Without retries, and without reading the body, which may never end: only the status matters.
        answer = urllib3.request(
            "GET", address, headers=headers, timeout=timeout_s, retries=False, preload_content=False
        )
        answer.close()
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        reason = redact_line(str(error)) or type(error).__name__
        raise ServiceError(
            f"MLflow at {shown} does not answer ({reason.rpartition('] ')[2]}): start it or correct "
            "MLFLOW_TRACKING_URI (`llava-av services up` starts a server here)"
        ) from error
    if answer.status >= 500:
        raise ServiceError(f"MLflow at {shown} answers with HTTP status {answer.status}: see its log")
