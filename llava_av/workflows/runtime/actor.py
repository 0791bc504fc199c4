"""Who does something that is recorded: a run of the pipeline, or a person."""

import getpass
import os
import socket

from llava_av.workflows.runtime.failures import pipeline_run

__all__ = ["who"]


def who() -> str:
    """Such as `pipeline run 0123-…` or `ada@workstation`."""
    run = pipeline_run()
    if run:
        return f"pipeline run {run}"
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user often has no name
        user = f"user {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
