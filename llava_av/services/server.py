"""One embedded server: a process under its guard, and a log."""

import contextlib
import logging
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llava_av.processes.guard import guarded_popen
from llava_av.redaction import redact_line
from llava_av.services.server_errors import ServiceError
from llava_av.services.state import StateLock
from llava_av.storage.store_errors import local_files

__all__ = ["Server", "ServerEnded", "launch", "stop_all"]

_LOG = logging.getLogger(__name__)


class ServerEnded(Exception):
    """Server that ended unexpectedly; the argument is the error for the user."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """A started server; `name` is its name in messages."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def failure(self, what: str) -> ServiceError:
        """Return an error that says what happened, with the last line of the log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")
        return ServiceError(f"the embedded {self.name} {what}: {redact_line(last)} (log: {self.log})")

    def check_alive(self) -> None:
        """Raise `ServerEnded` unless the server runs."""
        if self.process.poll() is not None or self._is_ending():
            raise ServerEnded(self.failure("ended"))

    def _is_ending(self) -> bool:
        import psutil  # too slow to import for each command

        # A zombie whose other threads have not ended yet cannot be waited for, but no longer works.
        try:
            return psutil.Process(self.process.pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True


def launch(
    name: str,
    state: Path,
    lock: StateLock,
    command: list[str],
    environment: Mapping[str, str],
    cwd: Path | None = None,
) -> Server:
    """Start a server under a guard that holds the state folder's lock while the server lives."""
    path = state / "logs" / f"{name.lower()}.log"
    _LOG.debug("starting %s, log %s", name, path)
    with local_files(path), path.open("wb") as log:
        process = guarded_popen(
            command,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            # A kill loses no data of either server, thanks to their write-ahead logs, and SeaweedFS would
            # take 15 s to stop on its own.
            grace_s=0,
            pass_fds=(lock.descriptor,),
            # SeaweedFS creates sockets in /tmp.
            umask=0o077,
        )
    return Server(name=name, process=process, log=path)


def stop_all(servers: list[Server]) -> None:
    """Stop all servers at the same time and clear the list."""
    for server in servers:
        with contextlib.suppress(ProcessLookupError):
            server.process.terminate()
    for server in servers:
        try:
            server.process.wait(10)
        except subprocess.TimeoutExpired:
            server.process.kill()
            server.process.wait()
    servers.clear()
