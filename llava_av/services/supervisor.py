"""Detached process of `llava-av services up`: it starts the servers and stops them on SIGTERM."""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from llava_av.errors import UserError
from llava_av.logs import configure_logging
from llava_av.redaction import redact_output
from llava_av.services.servers import ServerOptions, embedded_servers
from llava_av.services.state import StateLock
from llava_av.services.supervised import ServicesStatus, write_status

__all__ = ["main"]

_CHECK_S = 1.0


def main() -> int:
    """Serve until SIGTERM, or until a server ends."""
    parser = argparse.ArgumentParser(prog="python -m llava_av.services.supervisor")
    parser.add_argument("state", type=Path)
    parser.add_argument("--mlflow-port", type=int)
    parser.add_argument("--s3-port", type=int)
    options = parser.parse_args()
    redact_output()
    configure_logging()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # On SystemExit at any point the blocks below stop the servers.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    try:
        _serve(options.state, options.mlflow_port, options.s3_port)
    except UserError as error:
        # `services_up` shows the last line of this process's log.
        raise SystemExit(str(error)) from None
    return 0


def _serve(state: Path, mlflow_port: int | None, s3_port: int | None) -> None:
    options = ServerOptions(s3_port=s3_port, mlflow_port=mlflow_port)
    lock = StateLock(state, "services")
    try:
        with embedded_servers(state, lock, options) as running:
            addresses = running.addresses
            status = ServicesStatus(
                pid=os.getpid(), s3=addresses.s3, mlflow=addresses.mlflow or "", bucket=addresses.bucket
            )
            write_status(state, status)
            while True:
                time.sleep(_CHECK_S)
                running.check()
    finally:
        (state / "services.json").unlink(missing_ok=True)
        lock.close()


if __name__ == "__main__":
    sys.exit(main())
