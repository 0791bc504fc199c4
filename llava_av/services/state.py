"""State folder of embedded servers, its lock and its credentials.

lock              locked by flock while servers run on the folder; names the holder
credentials.json  the object store's keys and MLflow's password, mode 0600
services.json     addresses, while `llava-av services up` holds the folder
seaweedfs/        the object store's data
mlflow.db         MLflow's database
logs/             one file per server
"""

import contextlib
import fcntl
import json
import os
import secrets
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

from llava_av.files import write_whole
from llava_av.processes.lifeline import close_in_forks
from llava_av.services.server_errors import ServiceError
from llava_av.storage.store_errors import local_files

__all__ = [
    "Credentials",
    "Holder",
    "StateLock",
    "ensure_credentials",
    "in_use",
    "read_holder",
    "write_private",
]

# The guards of a killed command hold the lock for about a second, until its servers have ended.
_TAKEOVER_S = 15.0
# A process still looks alive for a moment after SIGKILL.
_DYING_S = 0.5
_POLL_S = 0.05
_SECRET_BYTES = {"access_key": 10, "secret_key": 20, "mlflow_password": 20}


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Process that holds a state folder: a command, or the supervisor of `services up`."""

    pid: int
    kind: Literal["command", "services"]


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """Keys of an embedded object store, and user and password of an embedded MLflow."""

    access_key: str
    secret_key: str = field(repr=False)
    mlflow_user: str = "llava-av"
    mlflow_password: str = field(repr=False)


def write_private(path: Path, text: str) -> None:
    """Write a file that only this user can read, atomically."""
    with local_files(path):
        write_whole(path, text, mode=0o600)


def ensure_credentials(state: Path) -> Credentials:
    """Read the folder's credentials and create missing ones at random; call this with the lock held."""
    path = state / "credentials.json"
    made = {name: secrets.token_hex(size) for name, size in _SECRET_BYTES.items()}
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError, AttributeError):
        names = {one.name for one in fields(Credentials)}
        # A later version may have added keys that this one does not know.
        found = {name: value for name, value in json.loads(path.read_text()).items() if name in names}
        if found.keys() >= made.keys():
            return Credentials(**found)
        # Earlier versions had no password for MLflow.
        made |= found
    credentials = Credentials(**made)
    write_private(path, json.dumps(asdict(credentials), indent=1) + "\n")
    return credentials


def read_holder(state: Path) -> Holder | None:
    """Return the holder of a folder; None if there is none, or if it is dead and its servers are ending."""
    try:
        descriptor = os.open(state / "lock", os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _parse_holder(os.read(descriptor, 1000))
    finally:
        os.close(descriptor)
    return None


def _parse_holder(text: bytes) -> Holder | None:
    import psutil  # too slow to import for each command

    with contextlib.suppress(ValueError, TypeError):
        holder = Holder(**json.loads(text))
        # A zombie keeps its process ID until its parent waits for it.
        with contextlib.suppress(psutil.Error):
            if psutil.Process(holder.pid).status() != psutil.STATUS_ZOMBIE:
                return holder
    return None


class StateLock:
    """Lock for running servers on a state folder; the kernel releases it when all holders have exited.

    Guards inherit `descriptor`, so that it is released only after a killed command's servers have ended.
    """

    def __init__(self, state: Path, kind: Literal["command", "services"]) -> None:
        """Create the folder if necessary and take the lock.

        Raises:
            ServiceError: Another live process holds it.
        """
        with local_files(state):
            state.mkdir(parents=True, exist_ok=True)
            # It holds datasets, weights and MLflow's database; earlier versions left it readable for others.
            state.chmod(0o700)
            self.descriptor = os.open(state / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._take(state)
        except BaseException:
            self.close()
            raise
        close_in_forks(self)
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, json.dumps({"pid": os.getpid(), "kind": kind}).encode(), 0)

    def _take(self, state: Path) -> None:
        started = time.monotonic()
        while True:
            try:
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                holder = _parse_holder(os.pread(self.descriptor, 1000, 0))
            waited_s = time.monotonic() - started
            if holder is not None and waited_s > _DYING_S:
                raise in_use(state, holder)
            if waited_s > _TAKEOVER_S:
                raise ServiceError(
                    f"servers of an ended command still hold {state}: stop them or use another --output-dir"
                )
            time.sleep(_POLL_S)

    def close(self) -> None:
        """Release the folder; safe to call more than once."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def in_use(state: Path, holder: Holder) -> ServiceError:
    """Return the error that names the holder of a state folder."""
    if holder.kind == "services":
        return ServiceError(
            f"`llava-av services up` (process {holder.pid}) uses {state}: stop it with"
            " `llava-av services down`"
        )
    return ServiceError(
        f"{state} is in use by process {holder.pid}: wait for it, use another --output-dir, "
        "or share servers between commands with `llava-av services up`"
    )
