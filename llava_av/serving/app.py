"""HTTP application: OpenAI's endpoints, probes and metrics."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Route

from llava_av.serving.api_keys import ApiKeys
from llava_av.serving.chat_endpoint import ChatEndpoint
from llava_av.serving.current_model import CurrentModel
from llava_av.serving.limits import ServingLimits
from llava_av.serving.media_fetcher import MediaFetcher
from llava_av.serving.metrics import ServingMetrics
from llava_av.serving.page import add_page
from llava_av.serving.request_errors import RequestError, error_body, model_missing
from llava_av.serving.request_gate import RequestGate

__all__ = ["build_app"]

_CHAT = "/v1/chat/completions"
_MAX_PATH = 200
"""Characters of a path in an error."""


def build_app(
    current: CurrentModel, *, limits: ServingLimits, keys: ApiKeys | None, fetcher: MediaFetcher
) -> FastAPI:
    """Build the application.

    Args:
        current: Model that answers.
        limits: Limits of requests.
        keys: Accepted keys; None to answer loopback hosts without a key.
        fetcher: Client for media that requests name by URL.
    """
    # pages of the documentation would load scripts from another server
    app = FastAPI(title="llava-av", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.is_ready = True
    metrics = ServingMetrics(current)
    chat = ChatEndpoint(current, limits, fetcher, metrics)
    app.router.routes.append(Route(_CHAT, chat, methods=["POST"]))
    _add_models(app, current)
    _add_probes(app, current, metrics)
    add_page(app)
    _add_errors(app)
    app.add_middleware(RequestGate, keys=keys, limits=limits, metrics=metrics)
    return app


def _add_models(app: FastAPI, current: CurrentModel) -> None:
    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [_described(current)]}

    @app.get("/v1/models/{name}")
    def model(name: str) -> dict[str, Any]:
        if name != current.model.identity.name:
            raise model_missing(name, current.model.identity.name)
        return _described(current)


def _described(current: CurrentModel) -> dict[str, Any]:
    identity = current.model.identity
    return {
        "id": identity.name,
        "object": "model",
        "created": current.model.loaded_at,
        "owned_by": "llava-av",
        "version": identity.version,
        "digest": identity.digest,
        "context": current.model.engine.context,
        "media": current.model.media.model_dump(exclude={"decoder"}),
    }


def _add_probes(app: FastAPI, current: CurrentModel, metrics: ServingMetrics) -> None:
    @app.api_route("/healthz", methods=["GET", "HEAD"])
    def alive() -> Response:
        is_alive = current.model.engine.is_alive()
        status = HTTPStatus.OK if is_alive else HTTPStatus.SERVICE_UNAVAILABLE
        return JSONResponse({"engine": "alive" if is_alive else "ended"}, status)

    @app.api_route("/readyz", methods=["GET", "HEAD"])
    def ready() -> Response:
        if app.state.is_ready:
            return alive()
        return JSONResponse({"server": "ending"}, HTTPStatus.SERVICE_UNAVAILABLE)

    @app.get("/metrics")
    def scraped() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> Response:
        return JSONResponse(error.body(), error.status, error.headers)

    @app.exception_handler(HTTPException)
    async def failed(request: Request, error: HTTPException) -> Response:
        status, asked = HTTPStatus(error.status_code), f"{request.method} {request.url.path[:_MAX_PATH]}"
        message = f"{asked}: {error.detail}: this server has POST {_CHAT} and GET /v1/models"
        return JSONResponse(error_body(status, message), status, error.headers)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        status = HTTPStatus.INTERNAL_SERVER_ERROR
        message = "the server failed; its log has the cause: try again"
        return JSONResponse(error_body(status, message, code="internal_error"), status)
