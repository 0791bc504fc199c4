"""Jobs of pipeline runs that nobody follows any more."""

from llava_av.launch.kubernetes.client import Cluster, Object
from llava_av.launch.kubernetes.manifest import PIPELINE_LABEL
from llava_av.launch.kubernetes.progress import final_condition

__all__ = ["delete_jobs", "pipeline_runs_with_jobs"]


def pipeline_runs_with_jobs(namespace: str) -> set[str]:
    """Ids of the pipeline runs whose jobs have not ended.

    Raises:
        LaunchError: the cluster cannot be asked.
    """
    return {
        job["metadata"]["labels"][PIPELINE_LABEL] for job in _unfinished(Cluster(namespace), PIPELINE_LABEL)
    }


def delete_jobs(namespace: str, *, pipeline_run: str) -> list[str]:
    """Delete the jobs of a pipeline run that have not ended, with their pods; returns their names.

    Raises:
        LaunchError: the cluster cannot be asked, or refuses.
    """
    cluster = Cluster(namespace)
    deleted = []
    for job in _unfinished(cluster, f"{PIPELINE_LABEL}={pipeline_run}"):
        cluster.delete_job(job["metadata"]["name"], job["metadata"]["uid"])
        deleted.append(str(job["metadata"]["name"]))
    return deleted


def _unfinished(cluster: Cluster, selector: str) -> list[Object]:
    return [job for job in cluster.list_jobs(labelSelector=selector)["items"] if final_condition(job) is None]
