"""The end of every pipeline run on a cluster, whether it went well, failed or was cancelled."""

from dataclasses import dataclass

from llava_av.launch import delete_jobs
from llava_av.steps.context import STEPS
from llava_av.steps.failures import Failure, pipeline_run, read_failures
from llava_av.steps.jobs import JobPlace
from llava_av.steps.patience import patient
from llava_av.storage import StoreError

__all__ = ["Ending", "cleanup_step"]

_SUCCEEDED = "SUCCEEDED"


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a pipeline run ended."""

    line: str
    """In one line; `ok` if all went well."""
    page: str
    """In Markdown, with the last lines of what failed."""


@patient
def cleanup_step(place: JobPlace, *, state: str) -> Ending:
    """Delete the jobs that this pipeline run left running, and tell what failed and why.

    Args:
        place: Where its jobs run.
        state: What the backend calls the run's state; `RUNNING` for one that is being cancelled.

    Raises:
        LaunchError: the cluster cannot be asked for jobs.
    """
    run = pipeline_run()
    if run is None:  # on this machine jobs end with the command, which also tells what failed
        return Ending(line="ok", page="All steps ended well.\n")
    deleted = delete_jobs(place.profile.namespace, pipeline_run=run) if place.profile is not None else []
    for name in deleted:
        print(f"deleted PyTorchJob {name}", flush=True)
    if state == _SUCCEEDED:
        return Ending(line="ok", page="All steps ended well.\n")
    failures, problem = _failures()
    lines = [f"{failure.step}: {failure.cause}" for failure in failures]
    lines += [problem] if problem else []
    if not lines:
        lines = ["no step said why: the run was cancelled, or a step's pod was lost"]
    for line in lines:
        print(f"error: {line}", flush=True)
    return Ending(line="; ".join(lines), page=_page(failures, lines, deleted))


def _failures() -> tuple[list[Failure], str | None]:
    try:
        return read_failures(STEPS), None
    except StoreError as error:
        return [], f"what steps left cannot be read: {error}"


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
