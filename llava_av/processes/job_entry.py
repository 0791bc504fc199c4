"""The command line that all jobs share: a run's key, a folder to work in, and one line when it fails."""

import argparse
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from llava_av.errors import explain
from llava_av.logs import configure_logging, log_error
from llava_av.processes.lifeline import watch_lifeline
from llava_av.processes.variables import set_variables
from llava_av.redaction import redact_output

__all__ = ["METRICS_PORT_VARIABLE", "STORE_RETRY_VARIABLE", "job_main"]

METRICS_PORT_VARIABLE = "LLAVA_AV_METRICS_PORT"
"""Variable with the port at which the first process of a job answers Prometheus; none: nothing is served."""

STORE_RETRY_VARIABLE = "LLAVA_AV_S3_RETRY_S"
"""Variable with the seconds for which an S3 operation is retried."""
_STORE_RETRY_S = "300"

_NONE: Mapping[str, str] = MappingProxyType({})


def job_main(
    module: str, load: Callable[[], Callable[..., None]], *, options: Mapping[str, str] = _NONE
) -> int:
    """Run one process of `python -m MODULE --run RUN --work DIR` and return its exit code.

    Nobody watches a job, so it retries an unavailable object store for minutes, a command for seconds.

    Args:
        module: name of the job's module.
        load: imports and gives what does the job, called with run key and folder. Long imports belong
            here: the process watches its lifeline, and answers `--help`, before them.
        options: further options by name with their help, passed on as text, empty where not given.
    """
    watch_lifeline()
    redact_output()
    parser = argparse.ArgumentParser(prog=module)
    parser.add_argument(
        "--run",
        required=True,
        type=_run_key,
        help="run key, or @FILE that holds it; runs/RUN/ in S3 says what to do",
    )
    parser.add_argument(
        "--work", required=True, type=Path, help="local folder for copies of data and checkpoints"
    )
    for name, text in options.items():
        parser.add_argument(f"--{name}", default="", help=text)
    arguments = parser.parse_args()
    patience = {STORE_RETRY_VARIABLE: os.environ.get(STORE_RETRY_VARIABLE) or _STORE_RETRY_S}
    try:
        configure_logging(run=arguments.run)
        with set_variables(patience):
            load()(arguments.run, arguments.work, **{name: getattr(arguments, name) for name in options})
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        log_error(line, error)
        return 1
    return 0


def _run_key(text: str) -> str:
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text[1:]}: {error.strerror}") from None
