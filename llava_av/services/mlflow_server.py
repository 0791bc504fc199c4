"""MLflow's tracking server in one process.

`mlflow server` imports MLflow in two processes one after the other, which is most of its start. This module
does what it does (cli/__init__.py and server/__init__.py of MLflow 3.17) in one, without the job runner, and
takes its port before the long imports, so that nothing else can take it meanwhile.
"""

import argparse
import os
import socket
import sys
from pathlib import Path

__all__ = ["main"]

_HOST = "127.0.0.1"


def main() -> int:
    """Serve until killed; the address's port is written to `--port-file` as soon as it is taken."""
    parser = argparse.ArgumentParser(prog="python -m llava_av.services.mlflow_server")
    parser.add_argument("--folder", type=Path, required=True, help="where mlflow.db is")
    parser.add_argument("--artifacts", required=True, help="s3:// URI of the artifacts")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--port-file", type=Path, required=True)
    options = parser.parse_args()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((_HOST, options.port))
        listener.listen(128)
    except OSError as error:
        print(f"port {options.port}: {error.strerror}", file=sys.stderr)
        return 1
    part = options.port_file.with_suffix(".part")
    part.write_text(str(listener.getsockname()[1]))
    part.replace(options.port_file)
    # A relative database path: no character of the folder's own name can be taken for a part of the URI.
    os.chdir(options.folder)
    _serve(listener, "sqlite:///mlflow.db", options.artifacts)
    return 0


def _serve(listener: socket.socket, database: str, artifacts: str) -> None:
    import uvicorn
    from mlflow.server import constants
    from mlflow.server.handlers import initialize_backend_stores

    root = "mlflow-artifacts:/"
    os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = database
    os.environ[constants.REGISTRY_STORE_URI_ENV_VAR] = database
    os.environ[constants.ARTIFACT_ROOT_ENV_VAR] = root
    os.environ[constants.ARTIFACTS_DESTINATION_ENV_VAR] = artifacts
    os.environ[constants.SERVE_ARTIFACTS_ENV_VAR] = "true"
    initialize_backend_stores(database, database, root)
    from mlflow.server.fastapi_app import app

    server = uvicorn.Server(uvicorn.Config(app, log_level="info", access_log=False))
    server.run(sockets=[listener])


if __name__ == "__main__":
    sys.exit(main())
