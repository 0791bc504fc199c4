"""Reaching MLflow, or saying in one line and within seconds that it cannot be reached."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException, RestException

from llava_av.errors import UserError
from llava_av.processes import set_variables
from llava_av.redaction import redact_line, without_password
from llava_av.services.errors import ServiceError
from llava_av.services.mlflow_health import require_answer

__all__ = ["MlflowError", "mlflow_client"]

_ANSWER_TIMEOUT_S = 5
# MLflow's own defaults (120 s, 7 retries with growing pauses) take minutes to say that a server is gone
_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
# of a server that asks who comes
_REFUSALS = {
    "UNAUTHENTICATED": (
        "it does not know this user with this password; check MLFLOW_TRACKING_USERNAME and"
        " MLFLOW_TRACKING_PASSWORD"
    ),
    "PERMISSION_DENIED": (
        "it does not let this user do that, or has nothing of this name; check the name, or ask who runs"
        " MLflow for the permission"
    ),
}


class MlflowError(UserError):
    """MLflow cannot be reached, or refuses."""


@contextmanager
def mlflow_client() -> Iterator[MlflowClient]:
    """A client of the server that MLFLOW_TRACKING_URI names.

    Variables that set MLflow's patience keep the user's values.

    Raises:
        MlflowError: the variable is not set, the server does not answer within 5 seconds, or what is done
            inside the context fails.
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
            raise MlflowError(f"MLflow at {shown}: {said}", transient=_may_pass(error)) from error
        except UserError:
            raise
        # MLflow's client does not catch what an answer that is not the expected JSON leads to, nor what the
        # clients of artifact stores raise.
        except Exception as error:
            said = f"its answer cannot be used ({type(error).__name__}: {_one_line(error)}); see its log"
            raise MlflowError(f"MLflow at {shown}: {said}", transient=isinstance(error, OSError)) from error


def _may_pass(error: MlflowException) -> bool:
    # Errors without a code of their own are given that of a server's fault; a server that goes away while it
    # is asked is told by the error that MLflow's was raised from.
    if isinstance(error, RestException):
        # MLflow looks for a row and then makes it: of two that do so at once PostgreSQL refuses the second.
        return error.get_http_status_code() >= 500 or "UniqueViolation" in str(error)
    return isinstance(error.__cause__ or error.__context__, OSError)


def _require_answer(uri: str) -> None:
    try:
        require_answer(uri, _ANSWER_TIMEOUT_S)
    except ServiceError as error:
        raise MlflowError(str(error), transient=True) from error


def _one_line(error: Exception) -> str:
    return redact_line(str(error)) or type(error).__name__
