"""Execution of `llava-av data commit`, in this process or as a job."""

from pathlib import Path
from typing import TYPE_CHECKING

from llava_av.workflows.runtime.workspace import Workspace

if TYPE_CHECKING:
    from llava_av.workflows.ingest.request import CommitRequest, CommitSummary
    from llava_av.workflows.runtime.job_target import JobTarget

__all__ = ["commit_source"]


def commit_source(
    request: "CommitRequest", target: "JobTarget", processes: int, output_dir: Path
) -> "CommitSummary":
    """Commit a folder or a prefix.

    On a cluster, only the job uses the store, so this machine needs no access to it.

    Args:
        request: The commit.
        target: Job target.
        processes: Number of processes.
        output_dir: Folder of state and logs.

    Raises:
        UserError: The commit is refused, or the job failed.
    """
    from llava_av.cli.display import console_progress
    from llava_av.cli.session import session
    from llava_av.processes.allocator import return_large_blocks
    from llava_av.storage import ObjectStore
    from llava_av.workflows.runtime.author import author

    workspace = Workspace(folder=output_dir.absolute())
    if target.profile is not None:
        # Pods know neither git's user nor the user of this machine.
        named = request.model_copy(update={"author": request.author or author()})
        return _run_job(workspace, named, target, processes)
    cache_file = None if request.again else workspace.file_cache
    return_large_blocks()
    with session(output_dir, need_mlflow=False, resumes=True), console_progress():
        store = ObjectStore.from_env()
        store.ensure_bucket()
        if processes == 1:
            return request.commit(store, cache_file)
        source = request.source if request.is_remote else str(Path(request.source).absolute())
        shared = {"source": source, "cache_file": "" if cache_file is None else str(cache_file)}
        return _run_job(workspace, request.model_copy(update=shared), target, processes)


def _run_job(
    workspace: Workspace, request: "CommitRequest", target: "JobTarget", processes: int
) -> "CommitSummary":
    from llava_av.workflows.ingest.launching import run_ingest

    return run_ingest(workspace, request, target, processes)
