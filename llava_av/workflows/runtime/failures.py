"""Why a step of a pipeline on a cluster failed, kept where people and the pipeline's last step look.

A backend shows that a step failed, but keeps neither its outputs nor what it said last.
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
"""Variable with the id of the pipeline run that a step belongs to; on a cluster only."""
# Kubernetes shows what a container leaves here with its exit code, also when its log is gone.
_TERMINATION_MESSAGE = Path("/dev/termination-log")
_MESSAGE_BYTES = 4096
_LAST_LINES = 40


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A step that failed."""

    step: str
    """Name of the step."""
    cause: str
    """One line."""
    last_lines: tuple[str, ...]
    """The end of the newest log of the step."""


def pipeline_run() -> str | None:
    """Id of the pipeline run that this step belongs to; None outside of a cluster."""
    return os.environ.get(PIPELINE_RUN_VARIABLE) or None


def keep_failure(step: str, cause: str, logs: Path) -> None:
    """Keep why a step failed: in S3, and as its container's last words. Never raises.

    Args:
        step: Name of the step.
        cause: One line.
        logs: Folder of the step's logs, of which the newest is kept, too.
    """
    run = pipeline_run()
    if run is None:
        return
    with contextlib.suppress(OSError):
        _TERMINATION_MESSAGE.write_bytes(cause.encode()[:_MESSAGE_BYTES])
    # S3 being away is a cause to tell, too; the log of the step still has it then.
    with contextlib.suppress(OSError, UserError):
        store = _store()
        store.put_json(f"pipelines/{run}/failed/{step}.json", {"cause": cause, "last_lines": _newest(logs)})


def forget_failure(step: str) -> None:
    """Take back what a step left when it failed, as it has ended well: runs may be retried. Never raises."""
    run = pipeline_run()
    if run is not None:
        with contextlib.suppress(OSError, UserError):
            _store().delete(f"pipelines/{run}/failed/{step}.json")


def read_failures(steps: Sequence[str]) -> list[Failure]:
    """What steps of this pipeline run left when they failed, in the order given.

    Raises:
        StoreError: S3 cannot be used.
    """
    store, run = _store(), pipeline_run()
    found = []
    for step in steps:
        kept = store.find_json(f"pipelines/{run}/failed/{step}.json")
        if kept is not None:
            found.append(Failure(step=step, cause=kept["cause"], last_lines=tuple(kept["last_lines"])))
    return found


def _store() -> "ObjectStore":
    # Every command imports this module, and few need S3.
    from llava_av.storage import ObjectStore

    return ObjectStore.from_env()


def _newest(logs: Path) -> list[str]:
    files = sorted(logs.glob("*.log"), key=lambda file: file.stat().st_mtime)
    if not files:
        return []
    return files[-1].read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
