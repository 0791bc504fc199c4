"""Errors in the form that OpenAI's clients read."""

from collections.abc import Mapping
from http import HTTPStatus

from llava_av.errors import UserError

__all__ = ["RequestError", "engine_failed", "error_body", "invalid", "model_missing", "timed_out"]

_TYPES = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.NOT_FOUND: "not_found_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
}


class RequestError(UserError):
    """An error that is answered with a status.

    Args:
        status: HTTP status.
        message: One line: what failed, why, and what to do.
        code: Name that programs can compare.
        param: Field of the request.
        headers: Further headers of the answer.
    """

    def __init__(
        self,
        status: HTTPStatus,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param
        self.headers = dict(headers or {})

    def body(self) -> dict[str, object]:
        """Return the body of the answer."""
        return error_body(self.status, str(self), code=self.code, param=self.param)


def invalid(message: str, *, code: str = "invalid_value", param: str | None = None) -> RequestError:
    """Return the error of a request that cannot be answered as it is."""
    return RequestError(HTTPStatus.BAD_REQUEST, message, code=code, param=param)


def model_missing(name: str, served: str) -> RequestError:
    """Return the error of a request for another model than the served one."""
    return RequestError(
        HTTPStatus.NOT_FOUND,
        f"model {name!r} does not exist: this server has {served}",
        code="model_not_found",
        param="model",
    )


def engine_failed() -> RequestError:
    """Return the error of a request that the engine could not answer."""
    return RequestError(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "the model failed to answer; the server's log has the cause: try again",
        code="engine_failed",
    )


def timed_out(limit_s: float) -> RequestError:
    """Return the error of a request that took longer than its limit."""
    return RequestError(
        HTTPStatus.GATEWAY_TIMEOUT,
        f"the reply did not end within {limit_s:g} s: ask for fewer tokens, or try again later",
        code="timeout",
    )


def error_body(
    status: HTTPStatus, message: str, *, code: str | None = None, param: str | None = None
) -> dict[str, object]:
    """Return the body of an error."""
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
