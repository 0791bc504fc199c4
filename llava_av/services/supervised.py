"""Servers that stay up between commands, kept by a detached supervisor that holds the state folder."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from llava_av.processes.lifeline import LIFELINE_VARIABLE
from llava_av.services.addresses import Addresses
from llava_av.services.ports import check_port_free
from llava_av.services.server_errors import ServiceError
from llava_av.services.state import StateLock, in_use, read_holder, write_private
from llava_av.storage.store_errors import local_files

__all__ = [
    "ServicesStatus",
    "services_down",
    "services_status",
    "services_up",
    "wait_for_status",
    "write_status",
]

_UP_DEADLINE_S, _DOWN_DEADLINE_S, _POLL_S = 250.0, 20.0, 0.05


@dataclass(frozen=True, kw_only=True)
class ServicesStatus:
    """Addresses of the servers that the supervisor with process ID `pid` keeps."""

    pid: int
    s3: str
    mlflow: str
    bucket: str

    @property
    def addresses(self) -> Addresses:
        """Return the addresses in the form that `service_environment` uses."""
        return Addresses(s3=self.s3, mlflow=self.mlflow, bucket=self.bucket)


def write_status(state: Path, status: ServicesStatus) -> None:
    """Announce that the servers are ready; only the supervisor calls this."""
    write_private(state / "services.json", json.dumps(asdict(status), indent=1) + "\n")


def services_status(state: Path) -> ServicesStatus | None:
    """Return the servers that `services_up` keeps on a state folder; None if none are ready."""
    holder = read_holder(state)
    if holder is None or holder.kind != "services":
        return None
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
        status = ServicesStatus(**json.loads((state / "services.json").read_text()))
        # A killed supervisor leaves a file that names another process.
        return status if status.pid == holder.pid else None
    return None


def services_up(state: Path, mlflow_port: int | None = None, s3_port: int | None = None) -> ServicesStatus:
    """Start the servers unless they run; they outlive this process and its terminal.

    Raises:
        ServiceError: A port is in use, another command holds the folder, or a server does not start.
    """
    holder = read_holder(state)
    if holder is not None and holder.kind == "command":
        raise in_use(state, holder)
    process = None if holder is not None else _start_supervisor(state, mlflow_port, s3_port)
    status = wait_for_status(state, process)
    _check_ports(status, mlflow_port, s3_port)
    return status


def _start_supervisor(state: Path, mlflow_port: int | None, s3_port: int | None) -> "subprocess.Popen[bytes]":
    for port, option in ((s3_port, "--s3-port"), (mlflow_port, "--mlflow-port")):
        if port is not None:
            check_port_free(port, option)
    command = [sys.executable, "-m", "llava_av.services.supervisor", str(state)]
    command += [] if mlflow_port is None else ["--mlflow-port", str(mlflow_port)]
    command += [] if s3_port is None else ["--s3-port", str(s3_port)]
    # The supervisor must outlive this command.
    environment = {name: value for name, value in os.environ.items() if name != LIFELINE_VARIABLE}
    log = state / "logs" / "supervisor.log"
    with local_files(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            return subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def wait_for_status(state: Path, process: "subprocess.Popen[bytes] | None") -> ServicesStatus:
    """Wait until the servers of a starting supervisor are ready.

    Args:
        state: The state folder.
        process: The supervisor, if this process started it.

    Raises:
        ServiceError: The supervisor ended; the message is the last line of its log.
    """
    log = state / "logs" / "supervisor.log"
    deadline = time.monotonic() + _UP_DEADLINE_S
    while time.monotonic() < deadline:
        status = services_status(state)
        if status is not None:
            return status
        ended = read_holder(state) is None if process is None else process.poll() is not None
        if ended and services_status(state) is None:
            lines = log.read_text(errors="replace").split("\n") if log.exists() else []
            last = next((line for line in reversed(lines) if line.strip()), "it wrote nothing")
            raise ServiceError(last if process is not None else f"`llava-av services up` ended: {last}")
        time.sleep(_POLL_S)
    raise ServiceError(f"`llava-av services up` is not ready after {_UP_DEADLINE_S:.0f} s: see {log}")


def _check_ports(status: ServicesStatus, mlflow_port: int | None, s3_port: int | None) -> None:
    for name, port, uri in (("MLflow", mlflow_port, status.mlflow), ("S3", s3_port, status.s3)):
        if port is not None and not uri.endswith(f":{port}"):
            raise ServiceError(
                f"{name} is already up at {uri}: run `llava-av services down` before setting port {port}"
            )


def services_down(state: Path) -> bool:
    """Stop the servers that `services_up` keeps and wait for their end; return False if there were none.

    Raises:
        ServiceError: Another command holds the folder.
    """
    holder = read_holder(state)
    if holder is not None and holder.kind == "command":
        raise in_use(state, holder)
    if holder is not None:
        _end(holder.pid)
        # The lock is free once the servers' guards have ended, too.
        StateLock(state, "command").close()
    (state / "services.json").unlink(missing_ok=True)
    return holder is not None


def _end(pid: int) -> None:
    import psutil  # too slow to import for each command

    with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
        process = psutil.Process(pid)
        os.kill(pid, signal.SIGTERM)
        try:
            process.wait(_DOWN_DEADLINE_S)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(_DOWN_DEADLINE_S)
