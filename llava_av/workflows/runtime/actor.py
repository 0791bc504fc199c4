"""Actor to record for a change: a pipeline run or a user."""

import getpass
import os
import socket

from llava_av.workflows.runtime.failures import pipeline_run

__all__ = ["actor"]


def actor() -> str:
    """Return the current actor, such as `pipeline run 0123-…` or `ada@workstation`."""
    run = pipeline_run()
    if run:
        return f"pipeline run {run}"
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # users in containers often have no name
        user = f"user {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
