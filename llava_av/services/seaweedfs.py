"""Startup of an embedded SeaweedFS: master, volume server, filer and S3 in one process."""

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from llava_av.services.certificates import write_security
from llava_av.services.ports import LOOPBACK, free_ports
from llava_av.services.server import Server, launch
from llava_av.services.server_errors import ServiceError
from llava_av.services.state import Credentials, StateLock, write_private
from llava_av.storage.store import ObjectStore
from llava_av.storage.store_errors import StoreError
from llava_av.storage.store_settings import StoreSettings

__all__ = ["clean_up", "start_seaweedfs", "wait_for_writes"]

_DEADLINE_S, _POLL_S = 60.0, 0.05
# (option, name that the server's Unix socket in /tmp carries, "" for none)
_PORTS = (
    ("s3.port", "s3"),
    ("s3.port.grpc", "s3-grpc"),
    ("filer.port", "filer"),
    ("filer.port.grpc", "filer-grpc"),
    ("master.port", ""),
    ("master.port.grpc", "master-grpc"),
    ("volume.port", ""),
    ("volume.port.grpc", "volume-grpc"),
)
_ACTIONS = ["Admin", "Read", "Write", "List", "Tagging"]
_OPTIONS = (
    "-dir=.",  # relative, since a comma in a path would mean two folders
    f"-ip={LOOPBACK}",
    f"-ip.bind={LOOPBACK}",
    "-filer",
    "-s3",
    "-s3.config=s3.json",
    # The S3 gateway reaches the other parts by gRPC and HTTPS with a certificate.
    "-disableHttp",
    "-filer.disableHttp",
    "-s3.iam=false",
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
    "-s3.readerCacheSizeMB=64",
    # A single master leads at once. An elected one may come too late for the volume server's first
    # heartbeat, and the second follows after 5 s.
    "-master.peers=none",
    "-master.telemetry=false",
    "-master.volumeSizeLimitMB=256",
    # Volumes grow as they fill, and every bucket has its own: with a small number writes fail.
    "-volume.max=4000",
    # The default of 1 % makes a large, fairly full disk read-only.
    "-volume.minFreeSpace=64MiB",
)


def start_seaweedfs(
    state: Path, lock: StateLock, credentials: Credentials, s3_port: int | None
) -> tuple[Server, str]:
    """Start SeaweedFS on STATE/seaweedfs, and return it with its future endpoint.

    Raises:
        ServiceError: The `weed` program or a package that it needs is not installed.
    """
    program = _find_program()
    folder = state / "seaweedfs"
    ports = _prepare(folder, credentials, s3_port)
    endpoint = f"http://{LOOPBACK}:{ports['s3.port']}"
    # By default it also writes log files to the folder for temporary files, and removes none of them.
    command = [
        program,
        "-logtostderr=true",
        "server",
        *_OPTIONS,
        *(f"-{option}={port}" for option, port in ports.items()),
    ]
    # By default pages of any origin may read answers.
    command.append(f"-s3.allowedOrigins={endpoint}")
    # SeaweedFS would use some of these variables as its own configuration.
    foreign = ("AWS_", "WEED_", "S3_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    # Two volumes per bucket instead of seven suffice for the writers of one machine.
    environment["WEED_MASTER_VOLUME_GROWTH_COPY_1"] = "2"
    server = launch("SeaweedFS", state, lock, command, environment, cwd=folder)
    return server, endpoint


def _find_program() -> str:
    beside = Path(sys.executable).parent / "weed"
    program = str(beside) if beside.is_file() else shutil.which("weed")
    if program is None:
        raise _missing_part("the embedded S3 server (weed)")
    if importlib.util.find_spec("cryptography") is None:
        raise _missing_part("the package cryptography, which the embedded S3 server needs,")
    return program


def _missing_part(what: str) -> ServiceError:
    how = "pip install 'llava-av[local]', or name a server with AWS_ENDPOINT_URL_S3"
    return ServiceError(f"{what} is not installed: {how}")


def _prepare(folder: Path, credentials: Credentials, s3_port: int | None) -> dict[str, int]:
    """Prepare the data folder and return a port for each of `_PORTS`, by option name."""
    folder.mkdir(parents=True, exist_ok=True)
    clean_up(folder)
    keys = {"accessKey": credentials.access_key, "secretKey": credentials.secret_key}
    identity = {"name": "llava-av", "credentials": [keys], "actions": _ACTIONS}
    write_security(folder)
    write_private(folder / "s3.json", json.dumps({"identities": [identity]}))
    ports = dict(zip((option for option, _ in _PORTS), free_ports(len(_PORTS)), strict=True))
    if s3_port is not None:
        ports["s3.port"] = s3_port
    write_private(folder / "ports.json", json.dumps(ports))
    return ports


def clean_up(folder: Path) -> None:
    """Remove the remains of a killed server: its sockets in /tmp and its election state."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        ports: dict[str, int] = json.loads((folder / "ports.json").read_text())
        for option, name in _PORTS:
            if name and option in ports:
                Path(f"/tmp/seaweedfs-{name}-{ports[option]}.sock").unlink(missing_ok=True)
        shutil.rmtree(folder / f"m{ports.get('master.port')}", ignore_errors=True)
        (folder / "ports.json").unlink()


def wait_for_writes(server: Server, settings: StoreSettings) -> None:
    """Wait until the bucket exists and accepts an object; the port answers before volumes are ready.

    Raises:
        ServerEnded: The server ended.
        ServiceError: It is not ready in time.
    """
    address = urlsplit(settings.endpoint)
    deadline, last = time.monotonic() + _DEADLINE_S, "it does not listen"
    while time.monotonic() < deadline:
        server.check_alive()
        with (
            contextlib.suppress(OSError),
            socket.create_connection((address.hostname or "", address.port or 0), timeout=1),
        ):
            try:
                # Without retries: this loop retries, and also checks that the server still runs.
                store = ObjectStore(replace(settings, retry_s=0))
                store.ensure_bucket()
                store.probe()
                return
            except StoreError as error:
                last = str(error)
        time.sleep(_POLL_S)
    raise server.failure(f"does not work after {_DEADLINE_S:.0f} s ({last})")
