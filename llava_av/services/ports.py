"""Loopback ports."""

import contextlib
import errno
import socket

from llava_av.services.server_errors import ServiceError

__all__ = ["LOOPBACK", "check_port_free", "free_ports"]

LOOPBACK = "127.0.0.1"


def free_ports(count: int) -> list[int]:
    """Return ports that are free now; another process may still take one before it is used."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [int(each.getsockname()[1]) for each in sockets]


def check_port_free(port: int, option: str) -> None:
    """Check that this process can listen at the port that the user set with `option`.

    Raises:
        ServiceError: The port is in use or not permitted.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen()
        except (OSError, OverflowError) as error:
            in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            reason = "is in use" if in_use else f"cannot be used ({error})"
            raise ServiceError(f"port {port} {reason}: give another with {option}, or none") from error
