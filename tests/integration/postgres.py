"""A PostgreSQL of the test's own on a socket in a temporary folder, and an MLflow server on it."""

import contextlib
import glob
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.commands import ROOT

_START_S = 180.0
# As `mlflow server` does it, which imports MLflow in two processes one after the other.
_SERVE = """
import os, sys
from llava_av.processes import uncollected_imports
with uncollected_imports():
    import uvicorn
    from mlflow.server import constants
    from mlflow.server.handlers import initialize_backend_stores
database, artifacts, port = sys.argv[1:]
root = "mlflow-artifacts:/"
os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = database
os.environ[constants.REGISTRY_STORE_URI_ENV_VAR] = database
os.environ[constants.ARTIFACT_ROOT_ENV_VAR] = root
os.environ[constants.ARTIFACTS_DESTINATION_ENV_VAR] = artifacts
os.environ[constants.SERVE_ARTIFACTS_ENV_VAR] = "true"
initialize_backend_stores(database, database, root)
with uncollected_imports():
    from mlflow.server.fastapi_app import app
uvicorn.run(app, host="127.0.0.1", port=int(port))
"""


def _program(name: str) -> str | None:
    """Find a program of PostgreSQL, also where Debian keeps it off the PATH."""
    found = shutil.which(name)
    return found or next(iter(sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"), reverse=True)), None)


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Run a database server during the block; yield the URI of its database `mlflow`."""
    programs = {name: _program(name) for name in ("initdb", "postgres", "createdb")}
    if not all(programs.values()):
        pytest.skip("PostgreSQL is not installed: initdb is not found (Debian: apt-get install postgresql)")
    # Its server refuses to run as root, and a socket's path may have about 100 characters.
    as_user = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="llava-av-pg-"))
    data = folder / "data"
    if as_user:
        shutil.chown(folder, "postgres", "postgres")
    command = [str(programs["initdb"]), "-D", str(data), "-U", "llava", "-A", "trust", "-N"]
    subprocess.run(command, check=True, capture_output=True, cwd=folder, **as_user)
    server = subprocess.Popen(
        [str(programs["postgres"]), "-D", str(data), "-k", str(folder), "-h", "", "-F"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **as_user,
    )
    try:
        _wait(lambda: _made(str(programs["createdb"]), folder), server)
        yield f"postgresql+psycopg2://llava@/mlflow?host={folder}"
    finally:
        server.terminate()
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _made(createdb: str, folder: Path) -> bool:
    done = subprocess.run([createdb, "-h", str(folder), "-U", "llava", "mlflow"], capture_output=True)
    return done.returncode == 0


@dataclass
class MlflowOnPostgres:
    """MLflow's server on a database, which can be killed and started again at the same address."""

    database: str
    log: Path
    port: int = field(default_factory=lambda: _free_port())
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-W", "ignore", "-c", _SERVE, self.database]
        command += [str(self.log.parent / "artifacts"), str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={
                    **os.environ,
                    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                    "PYTHONPATH": str(ROOT),
                },
            )
        _wait(self._answers, self.process)

    def kill(self) -> None:
        """End it at once, as a lost node would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(30)
            self.process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait(ready, process: "subprocess.Popen[bytes]") -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + _START_S
    while not ready():
        assert process.poll() is None, f"ended with {process.returncode}"
        assert time.monotonic() < deadline, f"not ready after {_START_S:.0f} s"
        time.sleep(0.1)
