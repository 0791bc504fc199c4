"""MLflow's tracking server in one process.

`mlflow server` imports MLflow in two processes one after the other, which is most of its start-up time. This
module does the same (cli/__init__.py and server/__init__.py of MLflow 3.17) in one process without the job
runner. It binds its port before the long imports, so that no other process can take it meanwhile.
"""

import argparse
import contextlib
import os
import socket
import sqlite3
import sys
from pathlib import Path

from llava_av.files import write_whole
from llava_av.processes import uncollected_imports
from llava_av.redaction import redact_output
from llava_av.services.access import OnlyOwner

__all__ = ["main", "make_database"]

_HOST = "127.0.0.1"
_DATABASE = Path("mlflow.db")
_ARTIFACT_ROOT = "mlflow-artifacts:/"


def main() -> int:
    """Serve until killed; write the port to `--port-file` as soon as it is bound."""
    parser = argparse.ArgumentParser(prog="python -m llava_av.services.mlflow_server")
    parser.add_argument("--folder", type=Path, required=True, help="folder of mlflow.db")
    parser.add_argument("--artifacts", required=True, help="s3:// URI of the artifacts")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--port-file", type=Path, required=True)
    options = parser.parse_args()
    redact_output()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((_HOST, options.port))
        listener.listen(128)
    except OSError as error:
        raise SystemExit(f"port {options.port}: {error.strerror}") from None
    write_whole(options.port_file, str(listener.getsockname()[1]))
    # With a relative database path the folder's name cannot be misread as a part of the URI.
    os.chdir(options.folder)
    with uncollected_imports():
        make_database()
        app = _application(options.artifacts)
    _serve(listener, app)
    return 0


def make_database() -> None:
    """Create the database, or migrate that of an earlier MLflow, under another name and then rename it.

    MLflow works table by table and refuses a database that a killed process left half-migrated.
    """
    from mlflow.store.db.utils import _get_latest_schema_revision, _upgrade_db
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy import create_engine

    if _DATABASE.exists() and _schema_revision() == _get_latest_schema_revision():
        return
    part = _DATABASE.with_suffix(".part")
    for path in (part, part.with_name(f"{part.name}-journal")):
        path.unlink(missing_ok=True)
    if _DATABASE.exists():
        with (
            contextlib.closing(sqlite3.connect(_DATABASE)) as old,
            contextlib.closing(sqlite3.connect(part)) as new,
        ):
            old.backup(new)
        engine = create_engine(_uri(part))
        _upgrade_db(engine)
        engine.dispose()
    else:
        SqlAlchemyStore(_uri(part), _ARTIFACT_ROOT).engine.dispose()
    part.replace(_DATABASE)


def _schema_revision() -> str | None:
    with contextlib.closing(sqlite3.connect(_DATABASE)) as connection:
        try:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        except sqlite3.OperationalError:
            return None
    return None if row is None else row[0]


def _uri(path: Path) -> str:
    return f"sqlite:///{path}"


def _application(artifacts: str) -> OnlyOwner:
    """Return MLflow's application on the database."""
    from mlflow.server import constants
    from mlflow.server.handlers import initialize_backend_stores

    database = _uri(_DATABASE)
    os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = database
    os.environ[constants.REGISTRY_STORE_URI_ENV_VAR] = database
    os.environ[constants.ARTIFACT_ROOT_ENV_VAR] = _ARTIFACT_ROOT
    os.environ[constants.ARTIFACTS_DESTINATION_ENV_VAR] = artifacts
    os.environ[constants.SERVE_ARTIFACTS_ENV_VAR] = "true"
    initialize_backend_stores(database, database, _ARTIFACT_ROOT)
    from mlflow.server.fastapi_app import app

    return OnlyOwner(app, os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"])


def _serve(listener: socket.socket, app: OnlyOwner) -> None:
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, log_level="info", access_log=False))
    server.run(sockets=[listener])


if __name__ == "__main__":
    sys.exit(main())
