"""HTTP server of the application, until a signal ends it."""

import logging
import socket

import uvicorn
from fastapi import FastAPI

from llava_av.errors import UserError

__all__ = ["LOOPBACK_HOSTS", "listen", "run_server"]

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
"""Hosts that only this machine reaches."""

_LOG = logging.getLogger(__name__)
_DRAIN_S = 30
_IDLE_S = 30
_BACKLOG = 512


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 chooses a free one.

    Raises:
        UserError: The address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise UserError(
            f"--host {host} --port {port} cannot be used: {error.strerror or error}; choose another address"
        ) from None


def run_server(app: FastAPI, listening: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM, which lets running requests end first."""
    host, port = listening.getsockname()[:2]
    _LOG.info("serving at http://%s:%s/v1", f"[{host}]" if ":" in host else host, port)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=_DRAIN_S,
    )
    uvicorn.Server(config).run(sockets=[listening])
