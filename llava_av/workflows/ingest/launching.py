"""Launch of an ingest as a job."""

from llava_av.errors import UserError
from llava_av.launch import WORK_FOLDER, JobSpec, LaunchError
from llava_av.logs import relay_line
from llava_av.workflows.ingest.job import COMMITTED
from llava_av.workflows.ingest.request import CommitRequest, CommitSummary
from llava_av.workflows.runtime.job_target import JobTarget, launch_job
from llava_av.workflows.runtime.workspace import Workspace

__all__ = ["ingest_spec", "run_ingest"]


def run_ingest(
    workspace: Workspace, request: CommitRequest, target: JobTarget, processes: int
) -> CommitSummary:
    """Commit a source with a job; after a failure, another call continues.

    Args:
        workspace: Folder of the job's log and of local caches.
        request: The commit.
        target: Job target.
        processes: Number of processes.

    Raises:
        UserError: The pods of a cluster cannot read the source, or may not write the commit.
        LaunchError: The job failed; the message includes the job's own error.
    """
    lines: list[str] = []

    def keep(line: str) -> None:
        if line.startswith(COMMITTED):
            lines.append(line.removeprefix(COMMITTED))
        else:
            relay_line(line)

    spec = ingest_spec(workspace, request, target, processes)
    launch_job(workspace, spec, target, on_line=keep)
    if not lines:
        raise LaunchError(f"{spec.name} ended without reporting its commit: see {workspace.logs}")
    return CommitSummary.model_validate_json(lines[-1])


def ingest_spec(workspace: Workspace, request: CommitRequest, target: JobTarget, processes: int) -> JobSpec:
    """Return the job of an ingest; arguments and errors as for `run_ingest`."""
    if target.profile is not None:
        _require_cluster(request, target)
    work = str(workspace.work) if target.profile is None else WORK_FOLDER
    return JobSpec(
        name="ingest",
        module="llava_av.workflows.ingest",
        arguments=("--run", request.ingest_id, "--work", work, "--request", request.model_dump_json()),
        processes=processes if processes > 1 else None,
        run=request.ingest_id,
    )


def _require_cluster(request: CommitRequest, target: JobTarget) -> None:
    if not request.is_remote:
        raise UserError(
            f"the folder {request.source} is on this machine, where pods cannot read it: upload it and give "
            "s3://BUCKET/PREFIX, or use --launcher local"
        )
    if target.profile is not None and target.profile.session_credentials:
        raise UserError(
            "the job profile has session_credentials=true, whose keys permit only the objects of a run: add "
            "--job session_credentials=false to commit a dataset"
        )
