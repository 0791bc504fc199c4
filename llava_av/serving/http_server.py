"""HTTP server of the application, until a signal ends it."""

import logging
import socket
import threading
from types import FrameType

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


def run_server(app: FastAPI, listening: socket.socket, *, shutdown_delay_s: float = 0.0) -> None:
    """Serve until SIGINT or SIGTERM, which lets running requests end first.

    Args:
        app: Application of `build_app`.
        listening: Socket of `listen`.
        shutdown_delay_s: Seconds from the signal until the server stops accepting requests. Meanwhile it is
            not ready and closes each connection after its answer, so that clients turn to other servers. A
            second signal ends the delay.
    """
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
    _Server(config, app, shutdown_delay_s).run(sockets=[listening])


class _Server(uvicorn.Server):
    """Server that still accepts requests for some seconds after a signal."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, delay_s: float) -> None:
        super().__init__(config)
        self._app, self._delay_s = app, delay_s
        self._delay: threading.Timer | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the delay at the first signal; stop accepting requests at the second one, or without one."""
        if self._delay is None and self._delay_s:
            self._app.state.is_ready = False
            self.config.encoded_headers.append((b"connection", b"close"))
            self._delay = threading.Timer(self._delay_s, super().handle_exit, (sig, frame))
            self._delay.daemon = True
            self._delay.start()
            return
        if self._delay is not None:
            self._delay.cancel()
        super().handle_exit(sig, frame)
