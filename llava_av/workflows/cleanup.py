"""The end of every pipeline run on a cluster, whether it went well, failed or was cancelled."""

import logging
from dataclasses import dataclass

from llava_av.errors import UserError, explain
from llava_av.launch import delete_jobs
from llava_av.storage import StoreError
from llava_av.workflows.runtime.failures import Failure, pipeline_run, read_failures
from llava_av.workflows.runtime.job_target import pipeline_changes, resolve_job_target
from llava_av.workflows.runtime.retry import retry_transient
from llava_av.workflows.runtime.workspace import STEPS

__all__ = ["Ending", "cleanup_step"]

_LOG = logging.getLogger(__name__)

_SUCCEEDED = "SUCCEEDED"
_WELL = "All steps ended well.\n"


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a pipeline run ended."""

    line: str
    """In one line; `ok` if all went well."""
    page: str
    """In Markdown, with the last lines of what failed."""


def cleanup_step(launcher: str, profile: str, job: str, *, state: str) -> Ending:
    """Delete the jobs that this pipeline run left running, and tell what failed and why.

    Nothing that goes wrong here keeps the rest from being told: it becomes a line of its own.

    Args:
        launcher: Where its jobs run; see `resolve_job_target`.
        profile: The same.
        job: What the run changed in the profile, in JSON.
        state: What the backend calls the run's state; `RUNNING` for one that is being cancelled.
    """
    run = pipeline_run()
    if run is None:  # on this machine jobs end with the command, which also tells what failed
        return Ending(line="ok", page=_WELL)
    failures, problems = _failures() if state != _SUCCEEDED else ([], [])
    lines = [f"{failure.step}: {failure.cause}" for failure in failures] + problems
    if not lines and state != _SUCCEEDED:
        lines = ["no step said why: the run was cancelled, or a step's pod was lost"]
    deleted: list[str] = []
    try:
        deleted = _delete_jobs(launcher, profile, job, run)
    except UserError as error:
        lines.append(f"jobs that may be left were not deleted: {explain(error)}")
    for name in deleted:
        _LOG.info("deleted PyTorchJob %s", name)
    for line in lines:
        _LOG.error("%s", line)
    if not lines:
        return Ending(line="ok", page=_WELL)
    return Ending(line="; ".join(lines), page=_page(failures, lines, deleted))


@retry_transient
def _delete_jobs(launcher: str, profile: str, job: str, run: str) -> list[str]:
    # The namespace of the jobs is all that is wanted of their target.
    target = resolve_job_target(launcher, profile, pipeline_changes(job, image="unused", gpus=0))
    return delete_jobs(target.profile.namespace, pipeline_run=run) if target.profile is not None else []


def _failures() -> tuple[list[Failure], list[str]]:
    try:
        return read_failures(STEPS), []
    except StoreError as error:
        return [], [f"what steps left cannot be read: {error}"]


def _page(failures: list[Failure], lines: list[str], deleted: list[str]) -> str:
    parts = ["# The run did not end well", *(f"**{line}**" for line in lines)]
    for failure in failures:
        if failure.last_lines:
            indented = "\n".join(f"    {line}" for line in failure.last_lines)
            parts += [f"## Last lines of the job of {failure.step}", indented]
    if deleted:
        parts += ["## Jobs that were still running and are deleted", *(f"- `{name}`" for name in deleted)]
    parts += [
        "Run the pipeline again with the same parameters when the cause is mended: finished steps are found, "
        "and training goes on from its last checkpoint."
    ]
    return "\n\n".join(parts) + "\n"
