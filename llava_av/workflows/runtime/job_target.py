"""Job targets: where the job of a step runs, on this machine or on a cluster, and how to run it there.

Launchers are loaded when a job starts: most commands of `data` run none.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import JsonValue

from llava_av.documents import parse_json_object
from llava_av.logs import relay_line
from llava_av.storage import ObjectStore
from llava_av.workflows.runtime.failures import pipeline_run
from llava_av.workflows.runtime.workspace import Workspace

if TYPE_CHECKING:
    from llava_av.launch import JobProfile, JobSpec, Launcher
    from llava_av.runs import Run

__all__ = [
    "LOCAL_TARGET",
    "JobTarget",
    "launch_job",
    "pipeline_changes",
    "processes_for",
    "resolve_job_target",
    "run_job",
]


@dataclass(frozen=True, kw_only=True)
class JobTarget:
    """A launcher and its job profile."""

    launcher: str
    """`local` or `kubernetes`."""
    profile: "JobProfile | None"
    """Resources and image of jobs on a cluster; None on this machine."""

    def to_text(self) -> str:
        """Return JSON that a pipeline's first step passes to the later ones.

        The backend caches a step's results under this text, so it includes the bucket that holds the results.
        A tag may point to another image next time: if the image is not pinned by digest, the text includes
        the pipeline run's ID to make it unique.
        """
        from llava_av.launch import is_pinned

        store = ObjectStore.from_env()
        parts: dict[str, JsonValue] = {"launcher": self.launcher, "store": f"{store.endpoint}/{store.bucket}"}
        if self.profile is not None:
            parts["profile"] = self.profile.model_dump(mode="json")
            if not is_pinned(self.profile.image):
                parts["only"] = pipeline_run()
        return json.dumps(parts, sort_keys=True)

    @classmethod
    def from_text(cls, text: str) -> "JobTarget":
        """Parse the result of `to_text`."""
        from llava_av.launch import JobProfile

        parts = json.loads(text)
        profile = JobProfile.model_validate(parts["profile"]) if "profile" in parts else None
        return cls(launcher=parts["launcher"], profile=profile)


_CLUSTER = "kubernetes"
LOCAL_TARGET = JobTarget(launcher="local", profile=None)


def run_job(
    workspace: Workspace,
    run: "Run",
    target: JobTarget,
    *,
    name: str,
    module: str,
    processes: int | None = None,
    arguments: tuple[str, ...] = (),
) -> None:
    """Run a job of a run until it ends, and log its output.

    Args:
        workspace: Folder of the job's log and, for a local job, of its copies of data.
        run: Run that the job belongs to.
        target: Job target.
        name: Name of the job.
        module: Module that each process runs.
        processes: Size of the process group; None for a single process without a group.
        arguments: Additional arguments of the module.

    Raises:
        LaunchError: The job failed; the message includes the job's own error.
    """
    from llava_av.launch import WORK_FOLDER, JobSpec

    work = str(workspace.work) if target.launcher == "local" else WORK_FOLDER
    spec = JobSpec(
        name=name,
        module=module,
        arguments=("--run", run.id, "--work", work, *arguments),
        processes=processes,
        run=run.id,
    )
    launch_job(workspace, spec, target, on_line=relay_line)


def launch_job(
    workspace: Workspace, spec: "JobSpec", target: JobTarget, *, on_line: Callable[[str], None]
) -> None:
    """Run a job until it ends.

    Args:
        workspace: Folder of its log.
        spec: The job.
        target: Job target.
        on_line: Called with each line of its output.

    Raises:
        LaunchError: The job failed; the message includes the job's own error.
    """
    from llava_av.launch import PIPELINE_LABEL, KubernetesLauncher, LocalLauncher

    owner = pipeline_run()
    labels = {PIPELINE_LABEL: owner} if owner else {}
    if target.profile is None:
        launcher: Launcher = LocalLauncher(workspace.logs)
    else:
        # Steps look for the result first: a job that ended without leaving one has to run again.
        launcher = KubernetesLauncher(workspace.logs, target.profile, labels=labels, adopt_finished=False)
    launcher.run(spec, on_line=on_line)


def resolve_job_target(launcher: str, profile: str, changes: Mapping[str, object] | None = None) -> JobTarget:
    """Return the job target that the parameters of a pipeline or a command select.

    Args:
        launcher: `local` or `kubernetes`.
        profile: Name, path or JSON text of a job profile; ignored by `local`.
        changes: Fields of the profile to replace; see `JobProfile.with_overrides`.

    Raises:
        LaunchError: The launcher is unknown.
        ProfileError: The profile or a field is unknown, or a value is not allowed.
    """
    if launcher == LOCAL_TARGET.launcher:
        return LOCAL_TARGET
    from llava_av.launch import LaunchError, load_profile

    if launcher != _CLUSTER:
        raise LaunchError(f"unknown launcher {launcher!r}: use {LOCAL_TARGET.launcher} or {_CLUSTER}")
    return JobTarget(launcher=launcher, profile=load_profile(profile, changes))


def pipeline_changes(job: str, *, image: str, gpus: int) -> dict[str, object]:
    """Return the fields of a job profile that a pipeline's parameters replace.

    Args:
        job: JSON object of field to value; overrides the other parameters.
        image: Image of the jobs; empty for the profile's.
        gpus: GPUs per node; 0 for the profile's.

    Raises:
        UserError: `job` is not a JSON object.
    """
    given = {"image": image, "gpus_per_node": gpus}
    return {**{name: value for name, value in given.items() if value}, **parse_json_object(job, what="job")}


def processes_for(profile: "JobProfile | None") -> dict[str, int]:
    """Return the recipe overrides that a profile requires: one training process per GPU, if it has GPUs."""
    gpus = profile.nodes * profile.gpus_per_node if profile is not None else 0
    return {"training.num_processes": gpus} if gpus else {}
