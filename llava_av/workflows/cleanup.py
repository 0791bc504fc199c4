"""Cleanup of a pipeline run on a cluster after it succeeded, failed or was cancelled."""

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
_WELL = "All steps succeeded.\n"


@dataclass(frozen=True, kw_only=True)
class Ending:
    """End of a pipeline run."""

    line: str
    """Causes in one line; `ok` if all steps succeeded."""
    page: str
    """Causes in Markdown, with the last log lines of failed steps."""


def cleanup_step(launcher: str, profile: str, job: str, *, state: str) -> Ending:
    """Delete the orphaned jobs of this pipeline run, and report which steps failed and why.

    An error in this function adds a line to the report and does not hide the others.

    Args:
        launcher: Launcher of the jobs; see `resolve_job_target`.
        profile: Profile of the jobs.
        job: Overrides of the profile, in JSON.
        state: State of the run on the backend; `RUNNING` for one that is being cancelled.
    """
    run = pipeline_run()
    if run is None:  # On this machine jobs end with the command, which also reports failures.
        return Ending(line="ok", page=_WELL)
    failures, problems = _failures() if state != _SUCCEEDED else ([], [])
    lines = [f"{failure.step}: {failure.cause}" for failure in failures] + problems
    if not lines and state != _SUCCEEDED:
        lines = ["no step reported a cause: the run was cancelled, or a step's pod was lost"]
    deleted: list[str] = []
    try:
        deleted = _delete_jobs(launcher, profile, job, run)
    except UserError as error:
        lines.append(f"cannot delete orphaned jobs: {explain(error)}")
    for name in deleted:
        _LOG.info("deleted PyTorchJob %s", name)
    for line in lines:
        _LOG.error("%s", line)
    if not lines:
        return Ending(line="ok", page=_WELL)
    return Ending(line="; ".join(lines), page=_page(failures, lines, deleted))


@retry_transient
def _delete_jobs(launcher: str, profile: str, job: str, run: str) -> list[str]:
    # Only the namespace of the job target is needed.
    target = resolve_job_target(launcher, profile, pipeline_changes(job, image="unused", gpus=0))
    return delete_jobs(target.profile.namespace, pipeline_run=run) if target.profile is not None else []


def _failures() -> tuple[list[Failure], list[str]]:
    try:
        return read_failures(STEPS), []
    except StoreError as error:
        return [], [f"cannot read the failures of steps: {error}"]


def _page(failures: list[Failure], lines: list[str], deleted: list[str]) -> str:
    parts = ["# The run failed", *(f"**{line}**" for line in lines)]
    for failure in failures:
        if failure.last_lines:
            indented = "\n".join(f"    {line}" for line in failure.last_lines)
            parts += [f"## Last lines of the job of {failure.step}", indented]
    if deleted:
        parts += ["## Orphaned jobs that were deleted", *(f"- `{name}`" for name in deleted)]
    parts += [
        "Fix the cause and run the pipeline again with the same parameters: it skips finished steps and "
        "resumes training from the last checkpoint."
    ]
    return "\n\n".join(parts) + "\n"
