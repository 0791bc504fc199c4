"""Orphaned jobs: those that still run although their pipeline run has ended."""

from llava_av.launch.kubernetes.client import Cluster, Object
from llava_av.launch.kubernetes.job_progress import final_condition
from llava_av.launch.kubernetes.pytorchjob import PIPELINE_LABEL

__all__ = ["delete_jobs", "pipeline_runs_with_jobs"]


def pipeline_runs_with_jobs(namespace: str) -> set[str]:
    """Return the IDs of the pipeline runs that have unfinished jobs.

    Raises:
        LaunchError: The cluster does not answer or rejects the request.
    """
    return {
        job["metadata"]["labels"][PIPELINE_LABEL] for job in _unfinished(Cluster(namespace), PIPELINE_LABEL)
    }


def delete_jobs(namespace: str, *, pipeline_run: str) -> list[str]:
    """Delete the unfinished jobs of a pipeline run with their pods, and return their names.

    Raises:
        LaunchError: The cluster does not answer or rejects the request.
    """
    cluster = Cluster(namespace)
    deleted = []
    for job in _unfinished(cluster, f"{PIPELINE_LABEL}={pipeline_run}"):
        cluster.delete_job(job["metadata"]["name"], job["metadata"]["uid"])
        deleted.append(str(job["metadata"]["name"]))
    return deleted


def _unfinished(cluster: Cluster, selector: str) -> list[Object]:
    return [job for job in cluster.list_jobs(labelSelector=selector)["items"] if final_condition(job) is None]
