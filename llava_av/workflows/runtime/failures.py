"""Failure causes of a pipeline's steps on a cluster, stored for users and for the pipeline's last step.

A backend shows that a step failed, but keeps neither its outputs nor its last lines.
"""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llava_av.errors import UserError

if TYPE_CHECKING:
    from llava_av.storage import ObjectStore

__all__ = [
    "PIPELINE_RUN_VARIABLE",
    "Failure",
    "forget_failure",
    "keep_failure",
    "pipeline_run",
    "read_failures",
]

PIPELINE_RUN_VARIABLE = "LLAVA_AV_PIPELINE_RUN"
"""Variable with the ID of the pipeline run that a step belongs to; set on a cluster only."""
# Kubernetes shows this file with a container's exit code, even if the log is deleted.
_TERMINATION_MESSAGE = Path("/dev/termination-log")
_MESSAGE_BYTES = 4096
_LAST_LINES = 40


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A failed step."""

    step: str
    """Name of the step."""
    cause: str
    """Cause in one line."""
    last_lines: tuple[str, ...]
    """Last lines of the step's newest log."""


def pipeline_run() -> str | None:
    """Return the ID of the pipeline run that this step belongs to; None outside a cluster."""
    return os.environ.get(PIPELINE_RUN_VARIABLE) or None


def keep_failure(step: str, cause: str, logs: Path) -> None:
    """Store why a step failed, in S3 and in its container's termination message; never raise.

    Args:
        step: Name of the step.
        cause: The cause in one line.
        logs: Folder of the step's logs; the end of the newest is also stored.
    """
    run = pipeline_run()
    if run is None:
        return
    with contextlib.suppress(OSError):
        _TERMINATION_MESSAGE.write_bytes(cause.encode()[:_MESSAGE_BYTES])
    # An unreachable S3 may be the cause itself; then only the step's log has it.
    with contextlib.suppress(OSError, UserError):
        store = _store()
        store.put_json(_key(run, step), {"cause": cause, "last_lines": _newest(logs)})


def forget_failure(step: str) -> None:
    """Delete the stored failure of a step that has succeeded, as in a retried run; never raise."""
    run = pipeline_run()
    if run is not None:
        with contextlib.suppress(OSError, UserError):
            _store().delete(_key(run, step))


def read_failures(steps: Sequence[str]) -> list[Failure]:
    """Return the stored failures of this pipeline run in the order of `steps`.

    Raises:
        StoreError: S3 cannot be used.
    """
    store, run = _store(), pipeline_run() or ""
    found = []
    for step in steps:
        kept = store.find_json(_key(run, step))
        if kept is not None:
            found.append(Failure(step=step, cause=kept["cause"], last_lines=tuple(kept["last_lines"])))
    return found


def _key(run: str, step: str) -> str:
    return f"pipelines/{run}/failed/{step}.json"


def _store() -> "ObjectStore":
    # Every command imports this module, and few need S3.
    from llava_av.storage import ObjectStore

    return ObjectStore.from_env()


def _newest(logs: Path) -> list[str]:
    files = sorted(logs.glob("*.log"), key=lambda file: file.stat().st_mtime)
    if not files:
        return []
    return files[-1].read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
