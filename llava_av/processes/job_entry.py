"""Command line that all jobs share: a run ID, a working folder, and one line of error output."""

import argparse
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from llava_av.errors import explain
from llava_av.logs import configure_logging, log_error
from llava_av.processes.imports import uncollected_imports
from llava_av.processes.lifeline import watch_lifeline
from llava_av.processes.termination import TERMINATED, TerminatedError
from llava_av.processes.variables import set_variables
from llava_av.redaction import redact_output

__all__ = [
    "METRICS_PORT_VARIABLE",
    "PROFILE_FOLDER_VARIABLE",
    "PROFILE_STEPS_VARIABLE",
    "STORE_RETRY_VARIABLE",
    "job_main",
]

METRICS_PORT_VARIABLE = "LLAVA_AV_METRICS_PORT"
"""Variable with the port on which rank zero of a job serves metrics to Prometheus; unset: no metrics."""

PROFILE_STEPS_VARIABLE = "LLAVA_AV_PROFILE_STEPS"
"""Variable with the number of steps that a training profiles; unset: none."""
PROFILE_FOLDER_VARIABLE = "LLAVA_AV_PROFILE_DIR"
"""Variable with the folder for trace and table of the profile; unset: in the job's working folder."""
STORE_RETRY_VARIABLE = "LLAVA_AV_S3_RETRY_S"
"""Variable with the number of seconds for which an S3 operation is retried."""
_STORE_RETRY_S = "300"

_NONE: Mapping[str, str] = MappingProxyType({})


def job_main(
    module: str, load: Callable[[], Callable[..., None]], *, options: Mapping[str, str] = _NONE
) -> int:
    """Run one process of `python -m MODULE --run RUN --work DIR` and return its exit code.

    Since jobs run unattended, they retry an unavailable object store for minutes; commands retry for seconds.

    Args:
        module: Name of the job's module.
        load: Imports and returns the function that does the work, which is called with run ID and folder.
            Slow imports belong in it: the process watches its lifeline and answers `--help` before them.
        options: Additional options by name with their help texts; passed as strings, empty if not given.
    """
    watch_lifeline()
    redact_output()
    parser = argparse.ArgumentParser(prog=module)
    parser.add_argument(
        "--run",
        required=True,
        type=_run_id,
        help="run ID, or @FILE that contains it; runs/RUN/ in S3 holds the request",
    )
    parser.add_argument(
        "--work", required=True, type=Path, help="local folder for copies of data and checkpoints"
    )
    for name, text in options.items():
        parser.add_argument(f"--{name}", default="", help=text)
    arguments = parser.parse_args()
    retries = {STORE_RETRY_VARIABLE: os.environ.get(STORE_RETRY_VARIABLE) or _STORE_RETRY_S}
    try:
        configure_logging(run=arguments.run)
        with set_variables(retries):
            with uncollected_imports():
                work = load()
            work(arguments.run, arguments.work, **{name: getattr(arguments, name) for name in options})
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        log_error(line, error)
        return TERMINATED if isinstance(error, TerminatedError) else 1
    return 0


def _run_id(text: str) -> str:
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text[1:]}: {error.strerror}") from None
