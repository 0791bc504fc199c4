"""Embedded servers of one state folder."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from llava_av.services.addresses import Addresses
from llava_av.services.mlflow_start import start_mlflow, wait_for_address, wait_for_health
from llava_av.services.ports import check_port_free
from llava_av.services.seaweedfs import clean_up, start_seaweedfs, wait_for_writes
from llava_av.services.server import Server, ServerEnded, stop_all
from llava_av.services.server_errors import ServiceError
from llava_av.services.state import Credentials, StateLock, ensure_credentials
from llava_av.storage.store_errors import local_files
from llava_av.storage.store_settings import DEFAULT_BUCKET

__all__ = ["Running", "ServerOptions", "embedded_servers"]

_ATTEMPTS = 3
# Below 64 MiB (its minFreeSpace) SeaweedFS refuses writes without naming the cause.
_MIN_FREE_BYTES = 128 << 20


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Servers to start; for a port that is None, a free one is chosen."""

    mlflow: bool = True
    wait_for_mlflow: bool = True
    """False to continue as soon as MLflow listens; requests wait until it has started."""
    s3_port: int | None = None
    mlflow_port: int | None = None


@dataclass(frozen=True, kw_only=True)
class Running:
    """Servers that are ready."""

    addresses: Addresses
    credentials: Credentials
    check: Callable[[], None]
    """Raises `ServiceError` if one of them has ended."""


@contextlib.contextmanager
def embedded_servers(state: Path, lock: StateLock, options: ServerOptions) -> Iterator[Running]:
    """Run SeaweedFS and optionally MLflow; they end with the block or with this process.

    Args:
        state: Folder of their data and logs.
        lock: This process's lock on the folder.
        options: Servers to start, and their ports.

    Raises:
        ServiceError: A port is in use, or a server does not start; the message has the last line of its log.
    """
    for port, option in ((options.s3_port, "--s3-port"), (options.mlflow_port, "--mlflow-port")):
        if port is not None:
            check_port_free(port, option)
    with local_files(state):
        (state / "logs").mkdir(parents=True, exist_ok=True)
        credentials = ensure_credentials(state)
        _check_space(state)
    servers: list[Server] = []
    with contextlib.ExitStack() as stack:
        stack.callback(clean_up, state / "seaweedfs")
        stack.callback(stop_all, servers)
        addresses = _start_with_retries(state, lock, credentials, options, servers)
        yield Running(addresses=addresses, credentials=credentials, check=lambda: _check(servers))


def _check_space(state: Path) -> None:
    free = shutil.disk_usage(state).free
    if free < _MIN_FREE_BYTES:
        raise ServiceError(
            f"the disk of {state} has only {free >> 20} MiB left, but needs {_MIN_FREE_BYTES >> 20} MiB: "
            "free some, or use another --output-dir"
        )


def _start_with_retries(
    state: Path, lock: StateLock, credentials: Credentials, options: ServerOptions, servers: list[Server]
) -> Addresses:
    """Retry if a server ends: usually another process took a port that was just chosen."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return _start(state, lock, credentials, options, servers)
        except ServerEnded as ended:
            stop_all(servers)
            if attempt == _ATTEMPTS:
                raise _error_of(ended) from None
    raise AssertionError("unreachable")


def _start(
    state: Path, lock: StateLock, credentials: Credentials, options: ServerOptions, servers: list[Server]
) -> Addresses:
    with local_files(state / "seaweedfs"):
        store, endpoint = start_seaweedfs(state, lock, credentials, options.s3_port)
    servers.append(store)
    bucket = os.environ.get("LLAVA_AV_BUCKET") or DEFAULT_BUCKET
    addresses = Addresses(s3=endpoint, mlflow=None, bucket=bucket)
    if options.mlflow:
        servers.append(start_mlflow(state, lock, addresses, credentials, options.mlflow_port))
    wait_for_writes(store, addresses.store_settings(credentials))
    if options.mlflow:
        addresses = replace(addresses, mlflow=wait_for_address(servers[1], state))
        if options.wait_for_mlflow:
            wait_for_health(servers[1], addresses.mlflow or "")
    return addresses


def _check(servers: list[Server]) -> None:
    try:
        for server in servers:
            server.check_alive()
    except ServerEnded as ended:
        raise _error_of(ended) from None


def _error_of(ended: ServerEnded) -> ServiceError:
    error = ended.args[0]
    assert isinstance(error, ServiceError)
    return error
