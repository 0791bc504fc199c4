"""Start the job of a step where the step's caller wants it: on this machine or on a cluster."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llava_av.launch import WORK_FOLDER, JobProfile, JobSpec, get_launcher, load_profile
from llava_av.steps.context import Workspace
from llava_av.steps.runs import Run

__all__ = ["HERE", "JobPlace", "job_place", "run_job"]


@dataclass(frozen=True, kw_only=True)
class JobPlace:
    """Where jobs run."""

    launcher: str
    """`local` or `kubernetes`."""
    profile: JobProfile | None
    """With what they run on a cluster; None on this machine."""


HERE = JobPlace(launcher="local", profile=None)


def run_job(
    workspace: Workspace, run: Run, place: JobPlace, *, name: str, module: str, processes: int | None = None
) -> None:
    """Run a job on a run and print what it says.

    Args:
        workspace: Where its log goes, and its copies of data when it runs here.
        run: The run.
        place: Where it runs.
        name: The job's name.
        module: Module of its processes.
        processes: How many form a group; None for one that is alone.

    Raises:
        LaunchError: the job failed; the text has its own error.
    """
    work = str(workspace.work) if place.launcher == "local" else WORK_FOLDER
    spec = JobSpec(
        name=name,
        module=module,
        arguments=("--run", run.key, "--work", work),
        processes=processes,
        run=run.key,
    )
    launcher = get_launcher(place.launcher, logs=workspace.logs, profile=place.profile)
    launcher.run(spec, on_line=print)


def job_place(launcher: str, profile: str, changes: Mapping[str, Any] | None = None) -> JobPlace:
    """Where jobs run, from the parameters of a pipeline or a command.

    Args:
        launcher: `local` or `kubernetes`.
        profile: Name, path or JSON text of a profile; ignored on this machine.
        changes: Fields of the profile to replace; see `JobProfile.with_overrides`.

    Raises:
        ProfileError: an unknown profile or field, or a value that is not allowed.
    """
    if launcher == HERE.launcher:
        return HERE
    return JobPlace(launcher=launcher, profile=load_profile(profile, changes))
