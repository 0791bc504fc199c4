"""Connection to MLflow that fails within seconds, with a one-line error, if MLflow is unreachable."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException, RestException

from llava_av.errors import UserError
from llava_av.processes import set_variables
from llava_av.redaction import redact_line, without_password
from llava_av.services.mlflow_health import require_answer
from llava_av.services.server_errors import ServiceError

__all__ = ["MlflowError", "mlflow_client"]

_ANSWER_TIMEOUT_S = 5
# MLflow's defaults (120 s, 7 retries with growing pauses) take minutes to report that a server is gone.
_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
# Answers of a server with authentication.
_REFUSALS = {
    "UNAUTHENTICATED": ("authentication failed; check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
    "PERMISSION_DENIED": (
        "permission denied, or nothing has this name; check the name, or ask MLflow's administrator for the"
        " permission"
    ),
}


class MlflowError(UserError):
    """MLflow is not reachable or refuses a request."""


@contextmanager
def mlflow_client() -> Iterator[MlflowClient]:
    """Provide a client of the server that MLFLOW_TRACKING_URI names.

    Variables with timeouts and retries of MLflow's client keep the user's values.

    Raises:
        MlflowError: The variable is not set, the server does not answer within 5 seconds, or a request inside
            the context fails.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        raise MlflowError(
            "MLFLOW_TRACKING_URI is not set; name an MLflow server, or run `llava-av services up`"
        )
    shown = without_password(uri)
    if urlsplit(uri).scheme in ("http", "https"):
        _require_answer(uri)
    ours = {key: value for key, value in _PATIENCE.items() if key not in os.environ}
    with set_variables(ours):
        try:
            yield MlflowClient(tracking_uri=uri, registry_uri=uri)
        except MlflowException as error:
            said = _REFUSALS.get(error.error_code) or _one_line(error)
            raise MlflowError(f"MLflow at {shown}: {said}", transient=_is_transient(error)) from error
        except UserError:
            raise
        # MLflow's client catches neither errors in unexpected answers nor those of artifact stores.
        except Exception as error:
            said = f"its answer is unusable ({type(error).__name__}: {_one_line(error)}); see its log"
            raise MlflowError(f"MLflow at {shown}: {said}", transient=isinstance(error, OSError)) from error


def _is_transient(error: MlflowException) -> bool:
    # MLflow gives errors without a code the one of an internal server error; a server that disappears during
    # a request is recognized by the error that caused MLflow's.
    if isinstance(error, RestException):
        # MLflow looks for a row and then creates it; PostgreSQL refuses the second of two concurrent calls.
        return error.get_http_status_code() >= 500 or "UniqueViolation" in str(error)
    return isinstance(error.__cause__ or error.__context__, OSError)


def _require_answer(uri: str) -> None:
    try:
        require_answer(uri, _ANSWER_TIMEOUT_S)
    except ServiceError as error:
        raise MlflowError(str(error), transient=True) from error


def _one_line(error: Exception) -> str:
    return redact_line(str(error)) or type(error).__name__
