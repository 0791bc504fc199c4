"""A job as the manifest of a PyTorchJob: what runs in its pods, and how they find each other.

A plain process is a PyTorchJob with a Master. A group is one of Workers alone, which torchrun joins by itself
(c10d rendezvous at the first one). With a Master beside them the training operator gives each Worker an init
container that has no security context, so that a namespace with restricted pod security refuses the pods; the
job would also count as done as soon as the Master is. And c10d notices when a killed pod comes back, while
the static rendezvous of a Master reads what the pod before left.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from llava_av.launch.api import JobSpec, LaunchError
from llava_av.launch.kubernetes.pod_template import pod_template
from llava_av.launch.profile import JobProfile

__all__ = [
    "CONTENT_LABEL",
    "GROUP",
    "PIPELINE_LABEL",
    "PLURAL",
    "RUN_LABEL",
    "VERSION",
    "build_job",
    "job_name",
    "leader_pod",
]

GROUP, VERSION, PLURAL = "kubeflow.org", "v1", "pytorchjobs"
RUN_LABEL, CONTENT_LABEL = "llava-av/run", "llava-av/content"
PIPELINE_LABEL = "llava-av/pipeline-run"
"""Label with the id of the pipeline run that made a job."""
_MANAGER = "llava-av"
_HASH_DIGITS = 10
# Pod names add `-worker-999`, and a name of a Service has at most 63 characters.
_NAME_MAX = 63 - len("-worker-999") - 1 - _HASH_DIGITS


def job_name(spec: JobSpec) -> str:
    """The name of the job of this run, step and content: equal specs have equal names.

    Raises:
        LaunchError: `spec.name` cannot be part of a name on a cluster.
    """
    allowed = spec.name.replace("-", "")
    if not (allowed.isascii() and allowed.isalnum() and spec.name.islower() and spec.name[0].isalpha()):
        raise LaunchError(f"job name {spec.name!r} needs lower-case letters, digits and -, a letter first")
    if len(spec.name) > _NAME_MAX:
        raise LaunchError(f"job name {spec.name!r} has more than {_NAME_MAX} characters; shorten it")
    content = {
        "run": spec.run,
        "name": spec.name,
        "module": spec.module,
        "arguments": list(spec.arguments),
        "processes": spec.processes,
        "environment": dict(spec.environment),
        "prepare": list(spec.prepare),
    }
    return f"{spec.name}-{_digest(content)[:_HASH_DIGITS]}"


def leader_pod(spec: JobSpec, name: str) -> str:
    """Name of the pod of rank 0, whose log is the job's."""
    return f"{name}-{_replica_type(spec).lower()}-0"


def build_job(
    spec: JobSpec,
    profile: JobProfile,
    *,
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    log_variables: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Build the PyTorchJob of a spec and a profile, ready for the API server or for YAML.

    Args:
        spec: What runs.
        profile: Where and with what.
        name: Name of the job instead of `job_name`.
        labels: Additional labels of job and pods, which say who made it and not what it does.
        log_variables: Variables that change what its processes log and not what they do.

    Raises:
        LaunchError: the processes cannot be spread over the profile's nodes and GPUs.
    """
    name = name or job_name(spec)
    does = _labels(spec)
    template = pod_template(spec, profile, leader=leader_pod(spec, name), per_node=_per_node(spec, profile))
    nodes = 1 if spec.processes is None else profile.nodes
    replica: dict[str, Any] = {
        "replicas": nodes,
        # With no retry left a failed pod has to stay as it is, instead of starting anew until it is noticed.
        "restartPolicy": "OnFailure" if profile.retries else "Never",
        "template": {"metadata": {"labels": does}, "spec": _spread(template, profile, name)},
    }
    job: dict[str, Any] = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "PyTorchJob",
        "metadata": {"name": name, "namespace": profile.namespace, "labels": {**does, **_queue(profile)}},
        "spec": {
            **({} if spec.processes is None else {"nprocPerNode": str(_per_node(spec, profile))}),
            "runPolicy": _run_policy(profile, nodes),
            "pytorchReplicaSpecs": {_replica_type(spec): replica},
        },
    }
    content = {CONTENT_LABEL: _digest(job)[:32]}
    job["metadata"]["labels"] |= {**content, **(labels or {})}
    replica["template"]["metadata"]["labels"] = {**does, **(labels or {})}
    _add_variables(template, log_variables or {})
    return job


def _add_variables(pod: dict[str, Any], variables: Mapping[str, str]) -> None:
    """Set variables of all containers that neither the spec nor the profile sets."""
    for container in (*pod.get("initContainers", ()), *pod["containers"]):
        known = {one["name"] for one in container["env"]}
        container["env"] += [
            {"name": name, "value": value} for name, value in variables.items() if name not in known
        ]


def _per_node(spec: JobSpec, profile: JobProfile) -> int:
    """Processes on each node."""
    if spec.processes is None:
        return 1
    per_node, rest = divmod(spec.processes, profile.nodes)
    if rest or not per_node:
        raise LaunchError(
            f"{spec.name}: processes={spec.processes} does not divide by the profile's nodes={profile.nodes};"
            " change one of them"
        )
    if profile.gpus_per_node and per_node != profile.gpus_per_node:
        raise LaunchError(
            f"{spec.name}: processes={spec.processes} on nodes={profile.nodes} are {per_node} a node, but"
            f" gpus_per_node={profile.gpus_per_node}; each process needs a GPU of its own: set"
            f" processes={profile.nodes * profile.gpus_per_node}, or gpus_per_node={per_node}"
        )
    return per_node


def _replica_type(spec: JobSpec) -> str:
    return "Master" if spec.processes is None else "Worker"


def _run_policy(profile: JobProfile, nodes: int) -> dict[str, Any]:
    return {
        # Logs of pods that ended stay readable; pods that wait for lost peers do not stay.
        "cleanPodPolicy": "Running",
        "activeDeadlineSeconds": profile.deadline_s,
        "ttlSecondsAfterFinished": profile.kept_s,
        # The operator adds up the restarts of all pods, and one failure restarts each of them once.
        "backoffLimit": profile.retries * nodes + 1 if profile.retries else 0,
    }


def _labels(spec: JobSpec) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "llava-av",
        "app.kubernetes.io/component": spec.name,
        "app.kubernetes.io/managed-by": _MANAGER,
        RUN_LABEL: spec.run,
    }


def _queue(profile: JobProfile) -> dict[str, str]:
    return {"kueue.x-k8s.io/queue-name": profile.queue} if profile.queue else {}


def _spread(template: dict[str, Any], profile: JobProfile, name: str) -> dict[str, Any]:
    if profile.topology_spread_key is None:
        return template
    constraint = {
        "maxSkew": 1,
        "topologyKey": profile.topology_spread_key,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"training.kubeflow.org/job-name": name}},
    }
    return {**template, "topologySpreadConstraints": [constraint]}


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
