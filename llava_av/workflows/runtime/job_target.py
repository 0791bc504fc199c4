"""Start the job of a step where the step's caller wants it: on this machine or on a cluster."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llava_av.documents import json_object
from llava_av.launch import (
    PIPELINE_LABEL,
    WORK_FOLDER,
    JobProfile,
    JobSpec,
    get_launcher,
    is_pinned,
    load_profile,
)
from llava_av.storage import ObjectStore
from llava_av.workflows.runs import Run
from llava_av.workflows.runtime.failures import pipeline_run
from llava_av.workflows.runtime.workspace import Workspace

__all__ = ["HERE", "JobPlace", "job_place", "pipeline_changes", "processes_for", "run_job"]


@dataclass(frozen=True, kw_only=True)
class JobPlace:
    """Where jobs run."""

    launcher: str
    """`local` or `kubernetes`."""
    profile: JobProfile | None
    """With what they run on a cluster; None on this machine."""

    def to_text(self) -> str:
        """As JSON: what a pipeline's step tells the next ones, and part of what their kept results stand for.

        So it also says in which bucket results are. And where the image is not named by digest, its name may
        stand for something else next time: then no other pipeline run has this text.
        """
        store = ObjectStore.from_env()
        parts: dict[str, Any] = {"launcher": self.launcher, "store": f"{store.endpoint}/{store.bucket}"}
        if self.profile is not None:
            parts["profile"] = self.profile.model_dump(mode="json")
            if not is_pinned(self.profile.image):
                parts["only"] = pipeline_run()
        return json.dumps(parts, sort_keys=True)

    @classmethod
    def from_text(cls, text: str) -> "JobPlace":
        """What `to_text` gave."""
        parts = json.loads(text)
        profile = JobProfile.model_validate(parts["profile"]) if "profile" in parts else None
        return cls(launcher=parts["launcher"], profile=profile)


HERE = JobPlace(launcher="local", profile=None)


def run_job(
    workspace: Workspace,
    run: Run,
    place: JobPlace,
    *,
    name: str,
    module: str,
    processes: int | None = None,
    arguments: tuple[str, ...] = (),
) -> None:
    """Run a job on a run and print what it says.

    Args:
        workspace: Where its log goes, and its copies of data when it runs here.
        run: The run.
        place: Where it runs.
        name: The job's name.
        module: Module of its processes.
        processes: How many form a group; None for one that is alone.
        arguments: Further ones of its module.

    Raises:
        LaunchError: the job failed; the text has its own error.
    """
    work = str(workspace.work) if place.launcher == "local" else WORK_FOLDER
    spec = JobSpec(
        name=name,
        module=module,
        arguments=("--run", run.key, "--work", work, *arguments),
        processes=processes,
        run=run.key,
    )
    owner = pipeline_run()
    labels = {PIPELINE_LABEL: owner} if owner else {}
    launcher = get_launcher(
        place.launcher,
        logs=workspace.logs,
        profile=place.profile,
        labels=labels,
        # Steps look for the result first: a job that has ended and left none has to run again.
        adopt_finished=False,
    )
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


def pipeline_changes(job: str, *, image: str, gpus: int) -> dict[str, Any]:
    """What a pipeline's parameters change in a profile.

    Args:
        job: JSON object of field to value; it has the last word.
        image: Image of the jobs; the profile's if empty.
        gpus: GPUs of each node; as the profile says if 0.

    Raises:
        UserError: `job` is no JSON object.
    """
    given = {"image": image, "gpus_per_node": gpus}
    return {**{name: value for name, value in given.items() if value}, **json_object(job, what="job")}


def processes_for(profile: JobProfile | None) -> dict[str, int]:
    """What a recipe has to change for a profile: one process for each GPU, where there are any."""
    gpus = profile.nodes * profile.gpus_per_node if profile is not None else 0
    return {"training.processes": gpus} if gpus else {}
